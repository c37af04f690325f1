"""The one place that loads the C++ rules and says how posthouse's targets are compiled.

posthouse_cc_library spells every include "posthouse/<layer>/<file>.h", inside and outside.
"""

load("@rules_cc//cc:defs.bzl", "cc_binary", "cc_library", "cc_test")

_WARNINGS = [
    "-Wall",
    "-Wextra",
    "-Werror=return-type",
    "-Wno-unused-parameter",
    "-Wno-missing-field-initializers",
    "-Wnon-virtual-dtor",
]

_FEATURES = ["layering_check", "parse_headers"]

def posthouse_cc_library(name, copts = [], features = [], **kwargs):
    cc_library(
        name = name,
        copts = _WARNINGS + copts,
        features = _FEATURES + features,
        include_prefix = "posthouse",
        strip_include_prefix = "/src",
        **kwargs
    )

def posthouse_example_library(name, copts = [], **kwargs):
    """A library outside src, included by its path in the repository."""
    cc_library(name = name, copts = _WARNINGS + copts, features = _FEATURES, **kwargs)

def posthouse_cc_binary(name, copts = [], **kwargs):
    cc_binary(name = name, copts = _WARNINGS + copts, **kwargs)

def posthouse_cc_test(name, copts = [], deps = [], kernel = "//src/os:kernel", **kwargs):
    """A GoogleTest; `kernel` is the answerer of src/os that it links (None: it brings its own)."""
    cc_test(
        name = name,
        copts = _WARNINGS + copts,
        deps = deps + ([kernel] if kernel else []) + ["@com_google_googletest//:gtest_main"],
        **kwargs
    )
