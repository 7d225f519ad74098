"""Repositories of hash-locked PyPI distributions.

`pip_hub(name = "pypi", locks = ...)` reads a lock and makes

    @pypi//torch            the distribution with everything it needs, a dep of subquad_library
    @pypi//torch:site       its unpacked wheel as one directory, without its needs
    @pypi//torch:LOCK       pin, wheel name and hash: changes whenever the directory does
    @pypi//torch:MODULES    the dotted module names it provides
    @pypi//:repos.bzl       pip_repositories(), which declares one lazily fetched repository per distribution

Names are normalised with underscores: `@pypi//grpcio_tools`. See third_party/python/README.md.
"""

def _parse(text):
    """The entries of a lock file: a list of struct(name, pin, hashes, needs)."""
    entries = []
    for line in text.replace("\\\n", " ").split("\n"):
        words = [word for word in line.strip().split(" ") if word]
        if words[:2] == ["#", "needs:"]:
            last = entries.pop()
            needs = [word for word in words[2:] if word != "nothing"]
            entries.append(struct(name = last.name, pin = last.pin, hashes = last.hashes, needs = needs))
        elif words and not words[0].startswith("#"):
            hashes = [word[len("--hash="):] for word in words[1:] if word.startswith("--hash=")]
            if not hashes:
                fail("no hash for " + words[0])
            entries.append(struct(name = words[0].split("==")[0], pin = words[0], hashes = hashes, needs = []))
    return entries

def _identifier(name):
    return name.replace("-", "_").replace(".", "_")

def _absolute(label):
    """A label as text that means the same from any repository, under Bazel 4 and 7."""
    text = str(label)
    return "@" + text if text.startswith("//") else text

def read_locks(ctx, locks):
    """Reads locks, {label: variant}, in a repository rule or a module extension: {variant: entries}."""
    return {locks[label]: _parse(ctx.read(ctx.path(label))) for label in locks}

def choose_variant(ctx, hub, locks, fetch, python):
    """The lock to use: the one that SUBQUAD_TORCH names, else the first whose torch pip can find.

    Args:
      ctx: of a repository rule or a module extension.
      hub: its name, for messages.
      locks: as from read_locks, best first.
      fetch: label of fetch_wheel.py.
      python: label of the interpreter.

    Returns:
      the name of the variant.
    """
    names = list(locks)
    wanted = ctx.os.environ.get("SUBQUAD_TORCH", "auto")
    if len(names) == 1 or wanted in names:
        return names[0] if len(names) == 1 else wanted
    if wanted != "auto":
        fail("SUBQUAD_TORCH is %r; accepted: auto, %s" % (wanted, ", ".join(names)))
    for name in names[:-1]:
        torch = [entry for entry in locks[name] if entry.name == "torch"][0]
        command = [ctx.path(python), "-I", ctx.path(fetch), "--check", torch.pin] + torch.hashes
        if ctx.execute(command, timeout = 1800).return_code == 0:
            return name

        # buildifier: disable=print
        print("pip does not find %s here, so @%s is made from the %r lock" % (torch.pin, hub, names[-1]))
    return names[-1]

_ALIASES = """package(default_visibility = ["//visibility:public"])

alias(
    name = "{name}",
    actual = "@{hub}_{name}//:pkg",
)

[alias(
    name = part,
    actual = "@{hub}_{name}//:" + part,
) for part in ["LOCK", "MODULES", "site"]]
"""

def _hub_impl(rctx):
    locks = read_locks(rctx, rctx.attr.locks)
    variant = rctx.attr.variant or choose_variant(rctx, rctx.attr.hub, locks, rctx.attr._fetch, rctx.attr._python)
    calls = []
    for entry in locks[variant]:
        name = _identifier(entry.name)
        rctx.file(name + "/BUILD.bazel", _ALIASES.format(hub = rctx.attr.hub, name = name), executable = False)
        calls.append("    pip_wheel(name = %r, pin = %r, hashes = %r, needs = %r)" % (
            rctx.attr.hub + "_" + name,
            entry.pin,
            entry.hashes,
            _needs(rctx.attr.hub, entry),
        ))
    statement = "load(%r, \"pip_wheel\")" % _absolute(Label("//tools/python:pip_lock.bzl"))
    rctx.file("repos.bzl", "\n".join([statement, "", "def pip_repositories():"] + calls) + "\n", executable = False)
    rctx.file("VARIANT", variant + "\n", executable = False)
    rctx.file("BUILD.bazel", "exports_files([\"VARIANT\", \"repos.bzl\"])\n", executable = False)

def _needs(hub, entry):
    return ["@%s_%s//:pkg" % (hub, _identifier(need)) for need in entry.needs]

_pip_hub = repository_rule(
    implementation = _hub_impl,
    attrs = {
        "hub": attr.string(mandatory = True),
        "locks": attr.label_keyed_string_dict(mandatory = True),
        "variant": attr.string(),
        "_fetch": attr.label(default = "//tools/python:fetch_wheel.py"),
        "_python": attr.label(default = "@python//:py/bin/python3"),
    },
    environ = ["SUBQUAD_TORCH"],
)

def pip_hub(name, locks):
    """Declares a hub, for WORKSPACE; pip_repositories() of its repos.bzl then declares the distributions.

    Args:
      name: of the hub and, with an underscore, the prefix of its distributions' repositories.
      locks: {label of a lock: its variant}. With several, the environment variable SUBQUAD_TORCH names the variant;
        `auto`, the default, takes the first one whose torch pip can find on this machine.
    """
    _pip_hub(name = name, hub = name, locks = locks)

def pip_hub_with_repositories(ctx, name, locks, fetch, python):
    """Declares a hub and its distributions, for a module extension. Arguments as above."""
    entries = read_locks(ctx, locks)
    variant = choose_variant(ctx, name, entries, fetch, python)
    _pip_hub(name = name, hub = name, locks = locks, variant = variant)
    for entry in entries[variant]:
        pip_wheel(
            name = name + "_" + _identifier(entry.name),
            hashes = entry.hashes,
            needs = _needs(name, entry),
            pin = entry.pin,
        )

_WHEEL = """load({rules}, "wheel_library")

package(default_visibility = ["//visibility:public"])

exports_files(["LOCK", "MODULES", "site"])

wheel_library(
    name = "pkg",
    lock = "LOCK",
    modules = "MODULES",
    site = "site",
    deps = {needs},
)
"""

def _wheel_impl(rctx):
    command = [rctx.path(rctx.attr._python), "-I", rctx.path(rctx.attr._fetch), rctx.attr.pin, str(rctx.path("."))]
    result = rctx.execute(command + rctx.attr.hashes, timeout = 3600)
    if result.return_code:
        fail(result.stdout + result.stderr)
    rules = repr(_absolute(Label("//tools/python:rules.bzl")))
    rctx.file("BUILD.bazel", _WHEEL.format(rules = rules, needs = repr(rctx.attr.needs)), executable = False)

pip_wheel = repository_rule(
    doc = "One unpacked distribution. The whole wheel is one directory: one link in a sandbox, however many files.",
    implementation = _wheel_impl,
    attrs = {
        "hashes": attr.string_list(mandatory = True),
        "needs": attr.string_list(),
        "pin": attr.string(mandatory = True),
        "_fetch": attr.label(default = "//tools/python:fetch_wheel.py"),
        "_python": attr.label(default = "@python//:py/bin/python3"),
    },
)
