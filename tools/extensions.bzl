"""Bazel 7's way to the repositories that WORKSPACE declares for Bazel 4; MODULE.bazel says which."""

load("//tools/cuda:toolkit.bzl", "cuda_toolkit")
load("//tools/lint:npm.bzl", "npm_package")
load("//tools/python:interpreter.bzl", "python_interpreter", "python_interpreter_kinds")
load("//tools/python:pip_lock.bzl", "pip_hub_with_repositories")

_PYTHON = Label("@python//:py/bin/python3")
_FETCH = Label("//tools/python:fetch_wheel.py")

def _interpreter_impl(_ctx):
    python_interpreter(name = "python")
    python_interpreter_kinds(name = "python_kinds")

interpreter = module_extension(implementation = _interpreter_impl)

def _pip_impl(ctx):
    for module in ctx.modules:
        for hub in module.tags.hub:
            pip_hub_with_repositories(ctx, hub.name, hub.locks, _FETCH, _PYTHON)

pip = module_extension(
    implementation = _pip_impl,
    environ = ["SUBQUAD_TORCH"],
    tag_classes = {"hub": tag_class(attrs = {
        "locks": attr.label_keyed_string_dict(mandatory = True),
        "name": attr.string(mandatory = True),
    })},
)

def _cuda_impl(ctx):
    for module in ctx.modules:
        for toolkit in module.tags.toolkit:
            cuda_toolkit(name = toolkit.name, parts = toolkit.parts)

cuda = module_extension(
    implementation = _cuda_impl,
    tag_classes = {"toolkit": tag_class(attrs = {
        "name": attr.string(mandatory = True),
        "parts": attr.label_list(mandatory = True),
    })},
)

def _npm_impl(ctx):
    for module in ctx.modules:
        for package in module.tags.package:
            npm_package(
                name = package.name,
                files = package.files,
                integrity = package.integrity,
                package = package.package,
                version = package.version,
            )

npm = module_extension(
    implementation = _npm_impl,
    tag_classes = {"package": tag_class(attrs = {
        "files": attr.string_list(),
        "integrity": attr.string(mandatory = True),
        "name": attr.string(mandatory = True),
        "package": attr.string(mandatory = True),
        "version": attr.string(mandatory = True),
    })},
)
