"""subquad_wheel: the wheel of a package, and the tests that it and the package's release notes have to pass."""

load("//tools/python:defs.bzl", "pytest_test")
load("//tools/release:layers.bzl", "ABSENT", "BELOW")

# What every project folder of a wheel holds beside the sources.
_PROJECT_FILES = ["README.md", "VERSION", "pyproject.toml"]

def _staged_path(file, package):
    """Where a file of the library belongs in the project folder; None for what is no part of the wheel."""
    if file.owner.workspace_root or file.owner.package != package:
        return None
    path = file.short_path[len(package) + 1:]
    if path.startswith("src/"):
        return path
    if file.is_source or "/subquad/" not in path:
        return None
    return "src/" + path[path.index("/") + 1:]  # generated below another import root, such as proto/

def _wheel_impl(ctx):
    package = ctx.label.package
    out = ctx.actions.declare_directory(ctx.label.name)
    staged = {file: file.short_path[len(package) + 1:] for file in ctx.files.project_files}
    staged[ctx.file._license] = "LICENSE"
    for file in ctx.attr.package_library[DefaultInfo].default_runfiles.files.to_list():
        path = _staged_path(file, package)
        if path:
            staged[file] = path
    native_files = []
    arguments = ctx.actions.args()
    arguments.add(out.path)
    arguments.add_all(["%s=%s" % (file.path, path) for file, path in staged.items()])
    for target, folder in ctx.attr.native.items():
        for file in target.files.to_list():
            native_files.append(file)
            arguments.add("--native=%s=%s/%s" % (file.path, folder, file.basename))
    ctx.actions.run(
        executable = ctx.executable._builder,
        outputs = [out],
        inputs = staged.keys() + native_files,
        arguments = [arguments],
        mnemonic = "SubquadWheel",
        progress_message = "Building the wheel of //" + package,
    )
    return [DefaultInfo(files = depset([out]), runfiles = ctx.runfiles([out]))]

_wheel = rule(
    doc = "A folder with one wheel in it, built by the backend that the package's pyproject.toml names.",
    implementation = _wheel_impl,
    attrs = {
        "native": attr.label_keyed_string_dict(doc = "{compiled library: folder of the project to put it in}"),
        "package_library": attr.label(mandatory = True, doc = "its files of this package, sources and data, are packed"),
        "project_files": attr.label_list(allow_files = True, mandatory = True),
        "_builder": attr.label(default = "//tools/release:build_wheel", executable = True, cfg = "exec"),
        "_license": attr.label(default = "//:LICENSE", allow_single_file = True),
    },
)

def _folder():
    return native.package_name().split("/")[-1]

def _hub(distribution):
    return "@pypi//" + distribution.replace("-", "_").replace(".", "_")

def _checks(name, checks, data, deps = [], env = {}, **kwargs):
    """Runs one of the pytest files of this folder for the package of the BUILD file."""
    pytest_test(
        name = name,
        srcs = ["//tools/release:" + checks],
        paths = ["tools/release/" + checks],
        data = data,
        env = dict(env, SUBQUAD_PACKAGE = native.package_name()),
        deps = deps + ["//tools/release:checks"],
        **kwargs
    )

def wheel_smoke_test(name, wheel, library, smoke, extras = [], absent = [], deps = [], size = "medium"):
    """Installs a wheel in a fresh virtual environment with exactly what it declares, and runs a script there.

    Also checks the wheel's metadata and contents.

    Args:
      name: of the test.
      wheel: a subquad_wheel of this package.
      library: what the wheel was made of; what it declares to need is looked for among the library's dependencies.
      smoke: the script, a file of this package.
      extras: of the wheel, to be installed too.
      absent: hub distributions whose modules must not be importable there, beside pytest.
      deps: dependencies of the extras, which the library does not have.
      size: of the test.
    """
    siblings = BELOW[_folder()]
    absent = ["pytest"] + absent
    deps = [library] + deps
    _checks(
        name = name,
        checks = "wheel_checks.py",
        size = size,
        data = [wheel, smoke, "VERSION", "pyproject.toml"] + ["//packages/%s:wheel" % each for each in siblings],
        deps = deps + [_hub(each) for each in absent if each != "pytest" and _hub(each) not in deps],
        env = {
            "SUBQUAD_ABSENT": " ".join(absent),
            "SUBQUAD_EXTRAS": " ".join(extras),
            "SUBQUAD_SIBLING_WHEELS": " ".join(["packages/%s/wheel" % each for each in siblings]),
            "SUBQUAD_SMOKE": smoke,
            "SUBQUAD_WHEEL": wheel[1:] if wheel.startswith(":") else wheel,
        },
    )

def subquad_wheel(name, library, smoke, native_libraries = {}):
    """The wheel of a package. Makes three targets:

    `<name>`, a folder with the wheel; `<name>_smoke_test`, see wheel_smoke_test; and `release_test`, which holds
    VERSION against CHANGELOG.md and the public API against api.txt.

    Args:
      name: of the folder; "wheel" in every package, since siblings look for it there.
      library: the package's subquad_library. Its sources, generated ones included, and its data are packed, together
        with README.md, VERSION, pyproject.toml and the licence, and nothing else.
      smoke: a script that shows in a few seconds that the installed package works.
      native_libraries: {target: folder of the project}: compiled libraries that only `--define native_wheels=yes`
        puts in; the wheel is then tagged for this platform.
    """
    _wheel(
        name = name,
        native = select({
            "//tools/release:native_wheels": native_libraries,
            "//conditions:default": {},
        }),
        package_library = library,
        project_files = _PROJECT_FILES,
        visibility = ["//packages:__subpackages__"],
    )
    wheel_smoke_test(
        name = name + "_smoke_test",
        wheel = ":" + name,
        library = library,
        smoke = smoke,
        absent = ABSENT[_folder()],
    )
    _checks(
        name = "release_test",
        checks = "release_checks.py",
        size = "small",
        data = ["CHANGELOG.md", "VERSION"] + native.glob(["api.txt", "src/**/*.py"]),
    )
