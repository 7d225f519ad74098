"""The interpreter that builds, tests and tools run on: a CPython 3.11 copied from the machine.

`python_interpreter` copies the best candidate; `python_interpreter_kinds` copies every candidate, so that a test can
show that each kind of build survives the move.
"""

_BUILD = """package(default_visibility = ["//visibility:public"])

exports_files([{files}])
"""

def _found(rctx):
    """The interpreters of this machine: a list of (executable, version, kind, origin), and why others were refused."""
    result = rctx.execute(["bash", str(rctx.path(rctx.attr._finder))], timeout = 120)
    rows = [tuple(line.split("\t")) for line in result.stdout.split("\n") if line]
    return rows, result.stderr.strip()

def _relocate(rctx, row, folder):
    """Copies one interpreter to FOLDER/py and its stamp to FOLDER/STAMP; returns an error message or None."""
    executable, _, _, origin = row
    command = [executable, "-I", str(rctx.path(rctx.attr._relocate)), str(rctx.path(folder + "py")), origin]
    result = rctx.execute(command, timeout = 600)
    return (result.stderr.strip() or "no message") if result.return_code else None

def _interpreter_impl(rctx):
    rows, refused = _found(rctx)
    for row in rows:
        error = _relocate(rctx, row, "")
        if not error:
            rctx.file("BUILD.bazel", _BUILD.format(files = '"STAMP", "py"'), executable = False)
            return
        refused += "\n%s: %s" % (row[0], error)
        rctx.delete("py")
    fail(("no usable CPython 3.11 on this machine. Install it (on Debian 12: apt-get install python3.11 " +
          "python3.11-venv) or name one by SUBQUAD_PYTHON. Tried:\n%s") % (refused or "nothing on PATH"))

python_interpreter = repository_rule(
    doc = "Makes `//:py`, a relocated CPython 3.11 as one directory, and `//:STAMP`, which tells what it is.",
    implementation = _interpreter_impl,
    attrs = {
        "_finder": attr.label(default = "//tools/python:find_interpreters.sh"),
        "_relocate": attr.label(default = "//tools/python:relocate.py"),
    },
    environ = ["SUBQUAD_PYTHON"],
    configure = True,
)

def _kinds_impl(rctx):
    rows, _ = _found(rctx)
    copied = []
    for row in rows:
        if row[2] in copied:
            continue
        error = _relocate(rctx, row, "kinds/%s/" % row[2])
        if error:
            fail("%s: %s" % (row[0], error))
        copied.append(row[2])
    rctx.file("BUILD.bazel", _BUILD.format(files = '"kinds"'), executable = False)

python_interpreter_kinds = repository_rule(
    doc = "Makes `//:kinds`, a directory with `shared` or `static` or both, each a relocated CPython 3.11 in `py`.",
    implementation = _kinds_impl,
    attrs = {
        "_finder": attr.label(default = "//tools/python:find_interpreters.sh"),
        "_relocate": attr.label(default = "//tools/python:relocate.py"),
    },
    environ = ["SUBQUAD_PYTHON"],
    configure = True,
)
