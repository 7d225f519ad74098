"""imports_test: every import of a library is provided by one of its direct dependencies."""

load(":rules.bzl", "PythonInfo", "py_test", "runfiles_path")

def _provider(ctx, dep):
    """What the checker has to know of one dependency."""
    info = dep[PythonInfo]
    return struct(
        modules = runfiles_path(ctx, info.modules) if info.modules else None,
        roots = info.roots,
        sources = [runfiles_path(ctx, src) for src in info.srcs],
    )

def _manifest_impl(ctx):
    library = ctx.attr.checked[PythonInfo]
    manifest = ctx.actions.declare_file(ctx.label.name + ".json")
    ctx.actions.write(manifest, json.encode_indent(struct(
        deps = [_provider(ctx, dep) for dep in ctx.attr.deps],
        library = "//%s:%s" % (ctx.label.package, ctx.attr.checked.label.name),
        optional = [_provider(ctx, dep) for dep in ctx.attr.optional_deps],
        optional_modules = ctx.attr.optional_modules,
        package = ctx.attr.package,
        roots = library.roots,
        sources = [runfiles_path(ctx, src) for src in library.srcs],
    )))
    infos = [dep[PythonInfo] for dep in ctx.attr.deps + ctx.attr.optional_deps]
    files = [manifest] + library.srcs + [info.modules for info in infos if info.modules]
    return [DefaultInfo(files = depset([manifest]), runfiles = ctx.runfiles(files))]

_manifest = rule(
    implementation = _manifest_impl,
    attrs = {
        "deps": attr.label_list(providers = [PythonInfo]),
        "checked": attr.label(providers = [PythonInfo], mandatory = True),
        "optional_deps": attr.label_list(providers = [PythonInfo]),
        "optional_modules": attr.string_list(),
        "package": attr.string(mandatory = True),
    },
)

def is_label(text):
    """Whether an optional dependency is a target, not the bare name of a module that no lock holds."""
    return text.startswith("@") or text.startswith("/") or text.startswith(":")

def imports_test(name, library, package, deps, optional_deps):
    """Checks the sources of a library against its direct dependencies, without importing anything.

    Args:
      name: of the test.
      library: the target whose own sources are read.
      package: the dotted name of the package that the library makes importable.
      deps: its direct dependencies.
      optional_deps: those of its extras, labels or module names; the labels are edges too, so visibility holds.
    """
    _manifest(
        name = name + "_manifest",
        testonly = True,
        deps = deps,
        checked = library,
        optional_deps = [dep for dep in optional_deps if is_label(dep)],
        optional_modules = [dep for dep in optional_deps if not is_label(dep)],
        package = package,
    )
    py_test(
        name = name,
        size = "small",
        srcs = ["//tools/python:check_imports.py"],
        args = ["$(rootpath :%s_manifest)" % name],
        data = [
            ":%s_manifest" % name,
            "//third_party/python:requirements.lock",
        ],
        main = "//tools/python:check_imports.py",
    )
