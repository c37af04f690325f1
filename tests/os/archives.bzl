"""Lists the archives of our own libraries for a test that looks into their symbols."""

def _library_archives_impl(ctx):
    archives = {}
    for dep in ctx.attr.deps:
        for input in dep[CcInfo].linking_context.linker_inputs.to_list():
            owner = input.owner
            label = "//{}:{}".format(owner.package, owner.name)
            if owner.workspace_name or label in ctx.attr.without:
                continue
            if not owner.package.startswith(ctx.attr.under):
                continue
            for library in input.libraries:
                archive = library.pic_static_library or library.static_library
                if archive:
                    archives[archive.short_path] = (archive, label)
    manifest = ctx.actions.declare_file(ctx.label.name + ".txt")
    ctx.actions.write(manifest, "".join([
        "{} {}\n".format(path, archives[path][1])
        for path in sorted(archives)
    ]))
    files = [manifest] + [entry[0] for entry in archives.values()]
    return [DefaultInfo(
        files = depset([manifest]),
        runfiles = ctx.runfiles(files = files),
    )]

library_archives = rule(
    implementation = _library_archives_impl,
    doc = "Writes NAME.txt: path and label of every archive that `deps` link from our own packages.",
    attrs = {
        "deps": attr.label_list(providers = [CcInfo]),
        "under": attr.string(default = "src/", doc = "only packages whose names begin so"),
        "without": attr.string_list(doc = "labels to leave out"),
    },
)
