"""The Python rules: a library, a binary and a test, small enough to own.

Bazel's own Python rules start every program through the `python3` on PATH, differ between Bazel 4 and 7, and leave
Bazel itself in version 8. These need nothing but the relocated interpreter and a shell. BUILD files use the macros
in `defs.bzl`.
"""

PythonInfo = provider(
    doc = "What a Python target gives to those that depend on it.",
    fields = {
        "imports": "depset of folders for PYTHONPATH, relative to the runfiles folder",
        "modules": "the MODULES file of a wheel (the dotted names that it provides), None for our own sources",
        "roots": "list of this target's own folders in imports",
        "sources": "depset of .py files, of this target and of all it depends on",
        "srcs": "list of the files in srcs, of this target alone",
    },
)

def runfiles_path(ctx, file):
    """Where a file lies below the runfiles folder."""
    path = file.short_path
    return path[len("../"):] if path.startswith("../") else ctx.workspace_name + "/" + path

def _import_folder(ctx, folder):
    """A package-relative folder, as seen from the runfiles folder."""
    root = ctx.label.workspace_root
    root = root[len("external/"):] if root.startswith("external/") else ctx.workspace_name
    return "/".join([part for part in [root, ctx.label.package, folder] if part not in ("", ".")])

def _python_info(ctx, imports, modules = None):
    deps = [dep[PythonInfo] for dep in ctx.attr.deps]
    srcs = ctx.files.srcs if hasattr(ctx.files, "srcs") else []
    roots = [_import_folder(ctx, each) for each in imports]
    return PythonInfo(
        imports = depset(roots, transitive = [dep.imports for dep in deps]),
        modules = modules,
        roots = roots,
        sources = depset(srcs, transitive = [dep.sources for dep in deps]),
        srcs = srcs,
    )

def _runfiles(ctx, files):
    runfiles = ctx.runfiles(files = files)
    for target in ctx.attr.deps + getattr(ctx.attr, "data", []):
        runfiles = runfiles.merge(target[DefaultInfo].default_runfiles)
    return runfiles

def _library_impl(ctx):
    return [
        DefaultInfo(files = depset(ctx.files.srcs), runfiles = _runfiles(ctx, ctx.files.srcs + ctx.files.data)),
        _python_info(ctx, ctx.attr.imports),
    ]

_LIBRARY_ATTRS = {
    "data": attr.label_list(allow_files = True, doc = "Files that the sources read when they run."),
    "deps": attr.label_list(providers = [PythonInfo], doc = "Libraries that the sources import."),
    "imports": attr.string_list(doc = "Folders of this package to put on PYTHONPATH."),
    "srcs": attr.label_list(allow_files = [".py"], doc = "Python sources."),
}

py_library = rule(implementation = _library_impl, attrs = _LIBRARY_ATTRS)

def _wheel_impl(ctx):
    files = [ctx.file.site, ctx.file.lock, ctx.file.modules]
    return [
        DefaultInfo(files = depset([ctx.file.site]), runfiles = _runfiles(ctx, files)),
        _python_info(ctx, [ctx.file.site.basename], ctx.file.modules),
    ]

wheel_library = rule(
    doc = "An unpacked wheel. A directory is tracked by its time stamp, so the lock entry is an input beside it.",
    implementation = _wheel_impl,
    attrs = {
        "deps": attr.label_list(providers = [PythonInfo]),
        "lock": attr.label(allow_single_file = True, mandatory = True),
        "modules": attr.label(allow_single_file = True, mandatory = True),
        "site": attr.label(allow_single_file = True, mandatory = True),
    },
)

def _quote(text):
    return "'" + text.replace("'", "'\\''") + "'"

def _executable_impl(ctx):
    info = _python_info(ctx, ctx.attr.imports)
    env = {key: ctx.expand_location(value, ctx.attr.data) for key, value in ctx.attr.env.items()}
    exports = ["export %s=%s" % (key, _quote(value)) for key, value in sorted(env.items())]
    launcher = ctx.actions.declare_file(ctx.label.name)
    ctx.actions.expand_template(
        template = ctx.file._launcher,
        output = launcher,
        is_executable = True,
        substitutions = {
            "@@EXPORTS@@": "\n".join(exports),
            "@@IMPORTS@@": " ".join([_quote(each) for each in [ctx.workspace_name] + info.imports.to_list()]),
            "@@INTERPRETER@@": _quote(runfiles_path(ctx, ctx.file._interpreter) + "/bin/python3"),
            "@@MAIN@@": _quote(runfiles_path(ctx, ctx.file.main)),
            "@@WORKSPACE@@": _quote(ctx.workspace_name),
        },
    )
    files = ctx.files.srcs + ctx.files.data + [ctx.file.main, ctx.file._interpreter, ctx.file._stamp]
    return [
        DefaultInfo(executable = launcher, files = depset([launcher]), runfiles = _runfiles(ctx, files)),
        info,
    ]

_EXECUTABLE_ATTRS = dict(
    _LIBRARY_ATTRS,
    env = attr.string_dict(doc = "Environment variables of the program; $(rootpath) of data is expanded."),
    main = attr.label(allow_single_file = [".py"], mandatory = True, doc = "The file to run."),
    _interpreter = attr.label(default = "@python//:py", allow_single_file = True),
    _launcher = attr.label(default = "//tools/python:launcher.sh", allow_single_file = True),
    _stamp = attr.label(default = "@python//:STAMP", allow_single_file = True),
)

py_binary = rule(implementation = _executable_impl, attrs = _EXECUTABLE_ATTRS, executable = True)

py_test = rule(implementation = _executable_impl, attrs = _EXECUTABLE_ATTRS, test = True)
