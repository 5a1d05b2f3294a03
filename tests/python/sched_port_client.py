# SPDX-License-Identifier: Apache-2.0
"""A small client of sched-port, written from docs/protocol.md alone.

It shows how little one needs: two pipes, a frame's length in front of it, and msgpack. It is for
one thread: a call waits for its answer, and what comes meanwhile is kept.
"""

import os
import select
import struct
import subprocess
import time

import msgpack


class ProtocolError(Exception):
    """What came is not what docs/protocol.md says."""


class SchedError(Exception):
    """The error of a response: a map with status, code, scope, message and perhaps
    retry_after_ms."""

    def __init__(self, error):
        super().__init__(f"{error['code']}: {error['message']}")
        self.error = error
        self.status = error["status"]
        self.code = error["code"]
        self.scope = error["scope"]
        self.retry_after_ms = error.get("retry_after_ms")


class Client:
    """A sched-port that was started for us. `stdio`: with its standard input and output as the
    stream, rather than descriptors of their own; `command`: what starts it, in place of its name."""

    def __init__(self, program, *options, timeout=20, stdio=False, command=None,
                 stderr=None):
        self.timeout = timeout
        self.next_id = 1
        self.frames_sent = 0
        self.responses = {}  # id -> (error, result)
        self.notifications = []  # (method, params), in the order in which they came
        their_in, self.out = os.pipe()
        self.in_, their_out = os.pipe()
        # The program is told which descriptors to use, since a shell may have used 3 and 4.
        self.process = subprocess.Popen(
            [
                *(command or [program]),
                "--fds=0,1" if stdio else f"--fds={their_in},{their_out}",
                *options,
            ],
            pass_fds=() if stdio else (their_in, their_out),
            stdin=their_in if stdio else subprocess.DEVNULL,
            stdout=their_out if stdio else None,
            stderr=stderr,
        )
        os.close(their_in)
        os.close(their_out)
        method, params = self.wait_notification("hello")
        self.hello = params[0]
        if self.hello["protocol"] != 1:
            raise ProtocolError(f"protocol {self.hello['protocol']}")
        # Deadlines are times on its clock.
        self.clock_offset = self.hello["clock_ns"] - time.monotonic_ns()

    # ------------------------------------------------------------------------------------ frames

    def send_bytes(self, data):
        """Bytes as they are; a frame is what send_frame() makes of its payload."""
        view = memoryview(data)
        while view:
            view = view[os.write(self.out, view) :]

    def send_frame(self, payload):
        self.frames_sent += 1
        self.send_bytes(struct.pack(">I", len(payload)) + payload)

    def send(self, *messages):
        """Messages, all of them in one frame."""
        self.send_frame(b"".join(msgpack.packb(message) for message in messages))

    def _read(self, size, deadline):
        data = bytearray()
        while len(data) < size:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.in_], [], [], left)[0]:
                raise TimeoutError(f"{len(data)} of {size} bytes came")
            piece = os.read(self.in_, min(size - len(data), 1 << 20))
            if not piece:
                raise EOFError("sched-port has closed its output")
            data += piece
        return bytes(data)

    def receive(self, timeout=None):
        """Reads one frame and keeps what is in it."""
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        (size,) = struct.unpack(">I", self._read(4, deadline))
        unpacker = msgpack.Unpacker(raw=False, max_buffer_size=0)
        unpacker.feed(self._read(size, deadline))
        for message in unpacker:
            if message[0] == 1:
                _, id_, error, result = message
                if id_ in self.responses:
                    raise ProtocolError(f"{id_} was answered twice")
                self.responses[id_] = (error, result)
            elif message[0] == 2:
                self.notifications.append((message[1], message[2]))
            else:
                raise ProtocolError(f"a message of type {message[0]}")

    def wait_notification(self, method):
        while True:
            for i, notification in enumerate(self.notifications):
                if notification[0] == method:
                    return self.notifications.pop(i)
            self.receive()

    # ---------------------------------------------------------------------------------- requests

    def request(self, method, *params):
        """The message of a request with an id of its own; the id is message[1]."""
        self.next_id += 1
        return [0, self.next_id, method, list(params)]

    def submit(self, method, *params):
        message = self.request(method, *params)
        self.send(message)
        return message[1]

    def wait(self, id_):
        while id_ not in self.responses:
            self.receive()
        error, result = self.responses.pop(id_)
        if error is not None:
            raise SchedError(error)
        return result

    def call(self, method, *params):
        return self.wait(self.submit(method, *params))

    def notify(self, method, *params):
        self.send([2, method, list(params)])

    def deadline(self, seconds):
        return time.monotonic_ns() + self.clock_offset + int(seconds * 1e9)

    # ------------------------------------------------------------------------------------ models

    def load(self, name, **options):
        return self.call("load", {"name": name, **options})

    def infer(self, model, inputs, **options):
        return self.call("infer", {"model": model, "inputs": inputs, **options})

    def submit_infer(self, model, inputs, **options):
        return self.submit("infer", {"model": model, "inputs": inputs, **options})

    def lease(self, size):
        return self.call("lease", {"size": size})

    # --------------------------------------------------------------------------------------- end

    def close(self, timeout=60):
        """Ends the input, which ends the program; its exit code."""
        for fd in (self.out, self.in_):
            if fd >= 0:
                os.close(fd)
        self.out = self.in_ = -1
        return self.process.wait(timeout)


def tensor(datatype, shape, data):
    return {"datatype": datatype, "shape": list(shape), "data": data}


def floats(output):
    """The numbers of an FP32 output."""
    assert output["datatype"] == "FP32"
    return struct.unpack(f"<{len(output['data']) // 4}f", output["data"])
