"""Fuzz targets: one source file with LLVMFuzzerTestOneInput and a corpus of the same name."""

load("//build_defs:posthouse.bzl", "posthouse_cc_binary")
load("@rules_cc//cc:defs.bzl", "cc_library", "cc_test")

def posthouse_fuzz_target(name, deps):
    """NAME_fuzzer for libFuzzer (tools/fuzz builds it with clang); NAME_replay_test for the suite."""
    cc_library(
        name = name,
        testonly = True,
        srcs = [name + ".cc"],
        deps = deps,
        alwayslink = True,
    )
    posthouse_cc_binary(
        name = name + "_fuzzer",
        testonly = True,
        linkopts = ["-fsanitize=fuzzer"],
        tags = ["manual"],
        deps = [
            ":" + name,
            "//src/os:kernel",
        ],
    )
    cc_test(
        name = name + "_replay_test",
        size = "small",
        srcs = ["replay_test.cc"],
        args = ["tests/fuzz/corpus/" + name],
        data = native.glob(["corpus/" + name + "/*"]),
        deps = [
            ":" + name,
            "//src/os:kernel",
            "@com_google_googletest//:gtest",
        ],
    )
