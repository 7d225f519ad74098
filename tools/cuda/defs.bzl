"""CUDA rules: cuda_library, cuda_binary and cuda_cubin, and the toolchain that they use. See README.md.

A `.cu` file is compiled to machine code for every architecture of the toolchain, without PTX: a GPU of another
generation is refused instead of being served by slow code compiled at start. Includes are relative to the workspace.
"""

_TOOLCHAIN = "//tools/cuda:toolchain_type"

CudaInfo = provider(
    doc = "Compiled CUDA code.",
    fields = {"objects": "depset of object files, each with host and device code"},
)

HostCompilerInfo = provider(doc = "A host compiler.", fields = {"path": "absolute path of a g++"})

def _host_compiler_impl(ctx):
    return [HostCompilerInfo(path = ctx.build_setting_value)]

host_compiler_flag = rule(
    doc = "The g++ that nvcc and the link step call: a command line option with the target's label as its name.",
    implementation = _host_compiler_impl,
    build_setting = config.string(flag = True),
)

def _toolchain_impl(ctx):
    return [platform_common.ToolchainInfo(
        architectures = ctx.attr.architectures,
        compile = ctx.executable._compile,
        copts = ctx.attr.copts,
        host_compiler = ctx.attr.host_compiler[HostCompilerInfo].path,
        host_versions = [str(ctx.attr.oldest_gcc), str(ctx.attr.newest_gcc)],
        root = ctx.file.root,
        stamp = ctx.file.stamp,
    )]

cuda_toolchain = rule(
    implementation = _toolchain_impl,
    attrs = {
        "architectures": attr.string_list(mandatory = True, doc = "such as sm_90a"),
        "copts": attr.string_list(doc = "further options of nvcc"),
        "host_compiler": attr.label(mandatory = True, providers = [HostCompilerInfo]),
        "newest_gcc": attr.int(mandatory = True, doc = "the newest major version that this nvcc takes"),
        "oldest_gcc": attr.int(mandatory = True, doc = "the oldest one that has the C++ standard in use"),
        "root": attr.label(allow_single_file = True, mandatory = True, doc = "the toolkit as one directory"),
        "stamp": attr.label(allow_single_file = True, mandatory = True, doc = "changes whenever the toolkit does"),
        "_compile": attr.label(default = "//tools/cuda:compile.sh", allow_single_file = True, executable = True, cfg = "exec"),
    },
)

def _nvcc(ctx, toolchain, out, source, options, mnemonic):
    """Compiles one source in the sandbox, with nothing but the toolkit and the host compiler in sight."""
    arguments = ctx.actions.args()
    arguments.add_all([toolchain.root.path + "/bin/nvcc", toolchain.host_compiler])
    arguments.add_all(toolchain.host_versions)
    arguments.add_all(["-std=c++17", "-O2", "-m64", "-I."])
    arguments.add_all(toolchain.copts + ctx.attr.copts + options)
    arguments.add_all([source, "-o", out])
    ctx.actions.run(
        executable = toolchain.compile,
        outputs = [out],
        inputs = [source, toolchain.root, toolchain.stamp] + ctx.files.hdrs,
        arguments = [arguments],
        mnemonic = mnemonic,
        progress_message = "Compiling %s with nvcc" % source.short_path,
        env = {"PATH": "/usr/bin:/bin"},
    )

def _virtual(architecture):
    return architecture.replace("sm_", "compute_")

def _compile_objects(ctx, toolchain):
    options = ["-gencode=arch=%s,code=%s" % (_virtual(each), each) for each in toolchain.architectures]
    options += ["-c", "-Xcompiler=-fPIC,-fvisibility=hidden"]
    objects = []
    for source in ctx.files.srcs:
        out = ctx.actions.declare_file("_objects/%s/%s.o" % (ctx.label.name, source.basename))
        _nvcc(ctx, toolchain, out, source, options, "CudaCompile")
        objects.append(out)
    return depset(objects, transitive = [dep[CudaInfo].objects for dep in ctx.attr.deps])

def _library_impl(ctx):
    objects = _compile_objects(ctx, ctx.toolchains[_TOOLCHAIN])
    return [DefaultInfo(files = objects), CudaInfo(objects = objects)]

def _binary_impl(ctx):
    toolchain = ctx.toolchains[_TOOLCHAIN]
    objects = _compile_objects(ctx, toolchain)
    out = ctx.actions.declare_file(("lib%s.so" if ctx.attr.linkshared else "%s") % ctx.label.name)

    # The host compiler links, not nvcc, whose device link writes the path of the sandbox into the result. Without
    # relocatable device code (-rdc) there is nothing for a device link to do. The CUDA runtime is linked in and kept
    # to itself, so that it cannot be mistaken for the one that PyTorch loads.
    arguments = ctx.actions.args()
    arguments.add_all(["-shared"] if ctx.attr.linkshared else ["-pie"])
    arguments.add_all(objects)
    arguments.add("-L%s/lib" % toolchain.root.path)
    arguments.add_all(["-lcudart_static", "-lpthread", "-ldl", "-lrt", "-static-libstdc++", "-static-libgcc"])
    arguments.add_all(["-Wl,--exclude-libs,ALL", "-Wl,--build-id=none", "-Wl,--strip-all", "-Wl,-z,defs"])
    arguments.add("-o", out)
    ctx.actions.run(
        executable = toolchain.host_compiler,
        outputs = [out],
        inputs = depset([toolchain.root, toolchain.stamp], transitive = [objects]),
        arguments = [arguments],
        mnemonic = "CudaLink",
        progress_message = "Linking %s" % out.short_path,
        env = {"PATH": "/usr/bin:/bin"},
    )
    return [DefaultInfo(files = depset([out]), executable = out, runfiles = ctx.runfiles([out]))]

def _cubin_impl(ctx):
    toolchain = ctx.toolchains[_TOOLCHAIN]
    outs = []
    for architecture in toolchain.architectures:
        out = ctx.actions.declare_file("%s.%s.cubin" % (ctx.label.name, architecture))
        options = ["-gencode=arch=%s,code=%s" % (_virtual(architecture), architecture), "-cubin"]
        _nvcc(ctx, toolchain, out, ctx.file.src, options, "CudaCubin")
        outs.append(out)
    return [DefaultInfo(files = depset(outs), runfiles = ctx.runfiles(outs))]

_COMMON = {
    "copts": attr.string_list(doc = "further options of nvcc"),
    "hdrs": attr.label_list(allow_files = [".h", ".cuh"], doc = "every file that the sources include"),
}

_OBJECTS = dict(
    _COMMON,
    deps = attr.label_list(providers = [CudaInfo]),
    srcs = attr.label_list(allow_files = [".cu"]),
)

cuda_library = rule(
    doc = "Object files of CUDA sources, for a cuda_binary to link.",
    implementation = _library_impl,
    attrs = _OBJECTS,
    toolchains = [_TOOLCHAIN],
)

cuda_binary = rule(
    doc = "A program, or with `linkshared` the shared library lib<name>.so; the same bytes from every build.",
    implementation = _binary_impl,
    attrs = dict(_OBJECTS, linkshared = attr.bool()),
    toolchains = [_TOOLCHAIN],
    executable = True,
)

cuda_cubin = rule(
    doc = "The device code of one source alone: <name>.<architecture>.cubin for each architecture.",
    implementation = _cubin_impl,
    attrs = dict(_COMMON, src = attr.label(allow_single_file = [".cu"], mandatory = True)),
    toolchains = [_TOOLCHAIN],
)
