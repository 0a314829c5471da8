"""Python that starts warm: `python tests/warm.py SOCKET -m papermill ...` does what `python -m papermill ...` does,
3 to 6 seconds of CPU earlier.

Behind the socket a server has imported what takes long (torch, diffusers, papermill, a notebook's kernel; nothing of
collapse_nb), and forks a process for each command, with the command's own directory, environment, streams, signals
and exit code. Ended by the end of its standard input, it takes along what still runs."""

import atexit
import gc
import json
import os
import selectors
import signal
import socket
import sys
import threading
import warnings

# Not pandas (nor sklearn.datasets, which needs it) and pyplot: they look on import whether they are in a notebook.
IMPORTS = ("multiprocessing.spawn", "papermill.cli", "ipykernel.kernelapp", "matplotlib_inline.config", "torch",
           "scipy.stats", "matplotlib.figure", "matplotlib.backends.backend_agg", "PIL.Image",
           "safetensors.torch", "diffusers.models.unets.unet_2d", "diffusers.schedulers")
PASSED_ON = signal.SIGINT, signal.SIGTERM


def ask(path: str, arguments: list[str]):
    "The client: have the server run the command, and end as it ends. What is no command for it runs as ever."
    if arguments[0] not in ("-m", "-c") or "--multiprocessing-fork" in arguments:
        os.execv(sys.executable, [sys.executable, *arguments])
    parent = os.getppid()
    server = socket.socket(socket.AF_UNIX)
    server.connect(path)
    command = dict(arguments=arguments, cwd=os.getcwd(), environment=dict(os.environ))
    about = json.dumps(command).encode()
    socket.send_fds(server, [len(about).to_bytes(4, "big")], [0, 1, 2])
    server.sendall(about)
    for number in PASSED_ON: signal.signal(number, lambda n, _: server.send(bytes([n])))
    server.settimeout(1)
    while os.getppid() == parent:
        try: code = int.from_bytes(server.recv(4), "big", signed=True)
        except TimeoutError: continue
        if code >= 0: os._exit(code)
        if -code in PASSED_ON: signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)


class Forked(Exception):
    "Raised in a new process: what it has to run."


class Server:
    def __init__(self, path: str):
        os.environ["JPY_PARENT_PID"] = str(os.getpid())  # read on import: a kernel ends with its parent
        with warnings.catch_warnings(action="ignore"):
            for name in IMPORTS: __import__(name)
        gc.freeze()  # collecting would copy the pages that the processes share
        sys.executable = os.path.join(os.path.dirname(path), "python")  # what the processes start begins warm, too
        self.paths, self.running, self.waiting = sys.path[1:], {}, selectors.DefaultSelector()
        self.listener, (self.ended, tell) = socket.socket(socket.AF_UNIX), socket.socketpair()
        tell.setblocking(False)
        self.tell = tell
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(tell.fileno(), warn_on_full_buffer=False)
        self.listener.bind(path)
        self.listener.listen(64)
        for source, act in ((sys.stdin, self.end), (self.listener, self.start), (self.ended, self.collect)):
            self.waiting.register(source, selectors.EVENT_READ, act)

    def serve(self):
        print("warm", flush=True)
        while True:
            for key, _ in self.waiting.select():
                if key.fileobj in self.waiting.get_map(): key.data(key.fileobj)

    def end(self, _):
        for pid in self.running.values(): os.kill(pid, signal.SIGKILL)
        os._exit(0)

    def start(self, listener):
        "A client has come: fork."
        connection, _ = listener.accept()
        size, streams, *_ = socket.recv_fds(connection, 4, 3)
        wanted, about = int.from_bytes(size, "big"), b""
        while len(about) < wanted: about += connection.recv(wanted - len(about))
        pid = os.fork()
        if not pid:
            signal.set_wakeup_fd(-1)
            for other in (self.waiting, listener, self.ended, self.tell, connection, *self.running): other.close()
            become(json.loads(about), streams, self.paths)
        for stream in streams: os.close(stream)
        self.running[connection] = pid
        self.waiting.register(connection, selectors.EVENT_READ, self.signal)

    def signal(self, connection):
        "A client passes on a signal; nothing where it was killed itself."
        number = connection.recv(1)
        os.kill(self.running[connection], number[0] if number else signal.SIGKILL)
        if not number: self.waiting.unregister(connection)

    def collect(self, ended):
        "Processes have ended: tell their clients, where they are still there."
        ended.recv(64)
        for connection, pid in [*self.running.items()]:
            done, status = os.waitpid(pid, os.WNOHANG)
            if not done: continue
            del self.running[connection]
            if connection in self.waiting.get_map():
                self.waiting.unregister(connection)
                connection.sendall(os.waitstatus_to_exitcode(status).to_bytes(4, "big", signed=True))
            connection.close()


def become(command: dict, streams: list[int], paths: list[str]):
    "Make this newly forked process the one that was asked for, up to its first line."
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for i, (stream, name) in enumerate(zip(streams, ("stdin", "stdout", "stderr"))):
        os.dup2(stream, i)
        os.close(stream)
        errors = "backslashreplace" if name == "stderr" else "strict"
        text = open(i, "w" if i else "r", buffering=1, encoding="utf-8", errors=errors, closefd=False)
        for known in (name, f"__{name}__"): setattr(sys, known, text)
    os.chdir(command["cwd"])
    os.environ.clear()
    os.environ.update(command["environment"])
    sys.path[:] = ["", *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)), *paths]
    import matplotlib
    kernel = "ipykernel_launcher" in command["arguments"]
    shown = "module://matplotlib_inline.backend_inline" if kernel else "agg"
    matplotlib.rcParams["backend"] = os.environ.setdefault("MPLBACKEND", shown)
    raise Forked(command["arguments"])


def run(kind: str, what: str, *rest: str):
    "What Python does with -m MODULE ... or -c CODE ..., without taking all that was imported apart in the end."
    sys.argv, code = [kind, *rest], 0
    try:
        if kind == "-m":
            import runpy
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        else: exec(compile(what, "<string>", "exec"), vars(sys.modules["__main__"]))
    except SystemExit as e: code = e.code or 0
    except BaseException:
        code = 1
        sys.excepthook(*sys.exc_info())
    if isinstance(code, str): code = print(code, file=sys.stderr) or 1
    threading._shutdown()
    atexit._run_exitfuncs()
    for text in (sys.stdout, sys.stderr): text.flush()
    os._exit(code)


if __name__ == "__main__":
    path, *asked = sys.argv[1:]
    if asked: ask(path, asked)
    try: Server(path).serve()
    except Forked as e: forked = e.args[0]
    run(*forked)
