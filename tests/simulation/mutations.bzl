"""Tests that the simulation finds a broken supervisor: one per patch of mutations/."""

load("//build_defs:posthouse.bzl", "posthouse_cc_test")
load("@rules_cc//cc:defs.bzl", "cc_library")

def simulation_mutations(names):
    """For each name: mutations/NAME.patch, applied to supervisor.cc, must make the simulation fail."""
    for name in names:
        patch = "mutations/%s.patch" % name
        native.genrule(
            name = name + "_source",
            testonly = True,
            srcs = ["//src/master:supervisor.cc", patch],
            outs = [name + ".cc"],
            cmd = "cp $(location //src/master:supervisor.cc) $@ && chmod +w $@ && " +
                  "patch --quiet $@ $(location %s)" % patch,
            tags = ["manual"],
        )
        cc_library(
            name = name + "_supervisor",
            testonly = True,
            srcs = [name + ".cc"],
            tags = ["manual"],
            deps = [
                "//src/master:supervisor_interface",
                "@com_google_absl//absl/status",
                "@com_google_absl//absl/strings",
            ],
        )
        posthouse_cc_test(
            name = name + "_mutation_test",
            size = "medium",
            tags = ["manual"],
            deps = [
                ":%s_supervisor" % name,
                ":mutation_test_body",
            ],
        )
    native.test_suite(
        name = "mutations",
        tags = ["manual"],
        tests = [name + "_mutation_test" for name in names],
    )
