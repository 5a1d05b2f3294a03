#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A port that speaks the protocol of docs/protocol.md and misbehaves on request.

Options say how it starts (--hello=...), the model of an infer what becomes of it; stats answers what
was seen, so that a test can ask for it. Nothing is computed.
"""
import os
import signal
import struct
import sys
import time
import zlib

OPTIONS = dict(a[2:].split("=", 1) if "=" in a else (a[2:], "true") for a in sys.argv[1:])


def option(name, default):
    return type(default)(OPTIONS.get(name, default))


# ---- MessagePack


def pack(x):
    if x is None:
        return b"\xc0"
    if x is True or x is False:
        return b"\xc3" if x else b"\xc2"
    if isinstance(x, int):
        if 0 <= x < 0x80:
            return bytes([x])
        if x < 0:
            return b"\xd3" + struct.pack(">q", x)
        return b"\xcf" + struct.pack(">Q", x) if x > 0xFFFFFFFF else b"\xce" + struct.pack(">I", x)
    if isinstance(x, float):
        return b"\xcb" + struct.pack(">d", x)
    if isinstance(x, str):
        b = x.encode()
        return (bytes([0xA0 + len(b)]) if len(b) < 32 else b"\xdb" + struct.pack(">I", len(b))) + b
    if isinstance(x, bytes):
        return b"\xc6" + struct.pack(">I", len(x)) + x
    if isinstance(x, (list, tuple)):
        head = bytes([0x90 + len(x)]) if len(x) < 16 else b"\xdd" + struct.pack(">I", len(x))
        return head + b"".join(pack(y) for y in x)
    if isinstance(x, dict):
        return b"\xdf" + struct.pack(">I", len(x)) + b"".join(pack(k) + pack(v) for k, v in x.items())
    raise TypeError(x)


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, n):
        if self.at + n > len(self.data):
            raise ValueError("cut short")
        self.at += n
        return self.data[self.at - n : self.at]

    def number(self, form):
        return struct.unpack(">" + form, self.take(struct.calcsize(form)))[0]

    def array(self, n):
        return [self.term() for _ in range(n)]

    def map(self, n):
        return {text(self.term()): self.term() for _ in range(n)}

    def term(self):
        h = self.take(1)[0]
        if h < 0x80:
            return h
        if h < 0x90:
            return self.map(h & 15)
        if h < 0xA0:
            return self.array(h & 15)
        if h < 0xC0:
            return self.take(h & 31).decode()
        if h >= 0xE0:
            return h - 256
        simple = {0xC0: None, 0xC2: False, 0xC3: True}
        if h in simple:
            return simple[h]
        numbers = dict(zip(range(0xCA, 0xD4), "f d B H I Q b h i q".split()))
        if h in numbers:
            return self.number(numbers[h])
        if h in (0xC4, 0xC5, 0xC6):
            return self.take(self.number("BHI"[h - 0xC4]))
        if h in (0xD9, 0xDA, 0xDB):
            return self.take(self.number("BHI"[h - 0xD9])).decode()
        if h in (0xDC, 0xDD):
            return self.array(self.number("HI"[h - 0xDC]))
        if h in (0xDE, 0xDF):
            return self.map(self.number("HI"[h - 0xDE]))
        raise ValueError("type %x" % h)


def text(x):
    return x.decode() if isinstance(x, bytes) else x


# ---- frames

IN, OUT = 3, 4


def read_exactly(n):
    data = b""
    while len(data) < n:
        more = os.read(IN, n - len(data))
        if not more:
            os._exit(0)
        data += more
    return data


def write_frame(payload):
    data = struct.pack(">I", len(payload)) + payload
    while data:
        data = data[os.write(OUT, data) :]


def say(*messages):
    write_frame(b"".join(pack(m) for m in messages))


# ---- the port

seen = {"cancels": [], "grants": [], "methods": [], "clients": [], "frames": [], "deadlines": [],
        "lease_writes": 0, "released": [], "infers": 0, "jobs": [], "pid": os.getpid(), "order": []}
models, held, streams, leases = {}, {}, {}, {}
jobs, last_job, late = {}, option("first-job", 1) - 1, []


def error(code, status, message, **more):
    return dict(code=code, status=status, scope="request", message=message, **more)


def tensor(value):
    if isinstance(value, dict) and "lease" in value:
        fd = leases[value["lease"]]
        data = os.pread(fd, value["size"], value["offset"])
        return {"datatype": value["datatype"], "shape": value["shape"], "data": data}
    if isinstance(value, dict):
        return value
    return {"datatype": "BYTES", "shape": [len(value)] if isinstance(value, list) else [],
            "data": [str(x).encode() if not isinstance(x, bytes) else x
                     for x in (value if isinstance(value, list) else [value])]}


def result(outputs):
    return {"outputs": outputs, "device": "fake:0", "batch": 1, "queue_us": 1, "compute_us": 2,
            "attempts": 1}


def send_parts(id):
    s = streams[id]
    while s["sent"] < s["parts"] and s["credit"] > 0:
        s["sent"] += 1
        s["credit"] -= 1
        data = struct.pack("<I", s["sent"])
        if s["sent"] == s["bad"]:
            say([2, "part", [id, 7]])
            continue
        outputs = {"part": {"datatype": "UINT32", "shape": [1], "data": data},
                   "fill": {"datatype": "UINT8", "shape": [s["bytes"]],
                            "data": b"\x07" * s["bytes"]}}
        if s["crc"] is not None:
            outputs["crc"] = {"datatype": "UINT32", "shape": [1],
                              "data": struct.pack("<I", s["crc"])}
        say([2, "part", [id, {"outputs": outputs}]])
        if s["sent"] == s["die_after"]:
            os._exit(3)
    if s["sent"] == s["parts"]:
        del streams[id]
        say([1, id, None, result({})])


def once(name):
    path = os.path.join(option("folder", "/nonexistent"), name)
    if os.path.exists(path):
        return False
    open(path, "w").close()
    return True


def infer(id, params, frame):
    model, parameters = text(params["model"]), params.get("parameters", {})
    seen["infers"] += 1
    seen["clients"].append(text(params.get("client")))
    seen["deadlines"].append(params.get("deadline"))
    seen["order"].append(params.get("priority"))
    if model == "echo":
        say([1, id, None, result({k: tensor(v) for k, v in params["inputs"].items()})])
    elif model == "crc":
        crc = zlib.crc32(tensor(params["inputs"]["data"])["data"])
        say([1, id, None, result({"crc": {"datatype": "UINT32", "shape": [1],
                                          "data": struct.pack("<I", crc)}})])
    elif model == "hold":
        held[id] = parameters.get("bytes", 0)
    elif model == "release":
        for other in list(held):
            n = held.pop(other)
            data = {"datatype": "UINT8", "shape": [n], "data": b"\x05" * n}
            say([1, other, None, result({"data": data} if n else {})])
        say([1, id, None, result({})])
    elif model == "big":
        n = parameters["bytes"]
        data = {"datatype": "UINT8", "shape": [n], "data": b"\x05" * n}
        say([1, id, None, result({"data": data})])
    elif model == "error":
        say([1, id, error(text(parameters["code"]), -999, "so it was asked", retry_after_ms=7), None])
    elif model == "parts":
        data = params["inputs"].get("data")
        crc = None if data is None else zlib.crc32(tensor(data)["data"])
        streams[id] = {"parts": parameters["parts"], "credit": params["parts"], "sent": 0,
                       "crc": crc,
                       "bytes": parameters.get("bytes", 0),
                       "die_after": parameters.get("die_after", -1),
                       "bad": parameters.get("bad", -1)}
        send_parts(id)
    elif model == "die":
        os._exit(3)
    elif model == "die_once":
        if once("died"):
            os._exit(3)
        say([1, id, None, result({k: tensor(v) for k, v in params["inputs"].items()})])
    elif model == "garbage":
        write_frame(b"\xc1\xff")
    elif model == "cut_short":
        write_frame(pack([1, id, None, "text"])[:-2])
    elif model == "bad_frame":
        say([2, "bad_frame", [frame, "it was asked for"]])
    elif model == "job_event":
        # What becomes of a job is what the test says.
        for n in range(parameters.get("times", 1)):
            done = parameters["done"] + n if "done" in parameters else None
            job_event(parameters.get("job", last_job), text(parameters.get("state", "running")),
                      done, parameters.get("total"), status=time_limit(parameters))
        say([1, id, None, result({})])
    elif model == "event":
        # One of the scheduler's, as the parameters say.
        for n in range(parameters.pop("times", 1)):
            event = {k: text(v) if isinstance(v, bytes) else v for k, v in parameters.items()}
            say([2, "event", [dict(event, refused=n) if event["event"] == "overload" else event]])
        say([1, id, None, result({})])
    elif model == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    else:
        say([1, id, dict(error("unknown_model", -201, "no model of that name"), scope="model"), None])


def time_limit(parameters):
    return error("time_limit", -108, "its time is up") if "time_limit" in parameters else None


def job_event(job, state, done=None, total=None, status=None, outcome=None, message=""):
    event = {"event": "job", "job": job, "name": jobs[job]["name"], "state": state,
             "done": done or 0, "message": message, "devices": jobs[job]["devices"]}
    if total is not None:
        event["total"] = total
    jobs[job]["state"] = state
    if state == "ended":
        del jobs[job]
        event.update(status=status, result=outcome or {})
    say([2, "event", [event]])


def submit(id, params):
    global last_job
    program, parameters = text(params.get("program", "")), params.get("parameters", {})
    seen["jobs"].append({k: text(v) if isinstance(v, bytes) else v for k, v in params.items()})
    if program == "refused":
        say([1, id, error("no_device", -301, "it asks for 9 devices, there are 2"), None])
        return
    if program == "die":
        os._exit(3)
    while late:
        say([1, late[0][0], None, {"job": late.pop(0)[1]}])
    last_job += 1
    job, n = last_job, params.get("devices", 1)
    name = text(params.get("name", program or "reservation"))
    jobs[job] = {"job": job, "name": name, "program": program, "state": "pending", "why": "it was asked",
                 "client": text(params.get("client", "")), "n_devices": n, "devices": []}
    if program == "late":
        late.append((id, job))
    else:
        say([1, id, None, {"job": job}])
    if name == "pending":
        return
    jobs[job]["devices"] = ["fake:%d" % i for i in range(n)]
    job_event(job, "running")
    if program == "done":
        job_event(job, "ended", 2, 2, None, {"loss": 0.25, "text": "x" * 200, "ranks": n}, "all of it")
    if program == "fail":
        job_event(job, "ended", status=error("engine_failed", -205, "it was made to fail"))


def end_job(id, params, reservation):
    job = params["job"]
    if job not in jobs:
        say([1, id, error("not_found", -106, "there is no such job"), None])
    elif reservation and jobs[job]["program"]:
        say([1, id, error("invalid_argument", -101, "cancel it instead"), None])
    else:
        say([1, id, None, None])
        job_event(job, "ended",
                  status=None if reservation else error("cancelled", -103, "it was cancelled"))


def call(id, method, params, frame):
    seen["methods"].append(method)
    if method == "infer":
        infer(id, params[0], frame)
    elif method == "stats":
        say([1, id, None, dict(seen, held=len(held), models=sorted(models))])
    elif method == "models":
        say([1, id, None, [{"name": m, "state": "ready"} for m in models]])
    elif method == "devices":
        say([1, id, None, []])
    elif method == "load":
        name = text(params[0]["name"])
        if name.startswith("bad"):
            say([1, id, dict(error("bad_model", -203, "no such folder"), scope="model"), None])
        else:
            models[name] = params[0]
            say([1, id, None, {"name": name, "state": "ready"}])
    elif method == "unload":
        models.pop(text(params[0]["name"]), None)
        say([1, id, None, None])
    elif method == "wait_ready":
        name = text(params[0]["name"])
        if name == "slow":
            held[id] = 0
        else:
            say([1, id, None, {"name": name, "state": "ready"}])
    elif method == "drain":
        drains.append(id)
    elif method == "lease":
        if option("no-leases", 0):
            say([1, id, error("overloaded", -401, "no memory to lease", retry_after_ms=9), None])
            return
        if option("die-at-lease", "") == "always" or (option("die-at-lease", "") and once("leased")):
            os._exit(3)
        fd = os.memfd_create("lease", os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, params[0]["size"])
        leases[fd] = fd
        path = "/proc/%d/fd/%d" % (os.getpid(), fd)
        path = OPTIONS.get("lease-path", path)
        say([1, id, None, {"lease": fd, "path": path, "size": params[0]["size"], "expires_ms": 30000}])
    elif method == "ping":
        say([1, id, None, params[0]])
    elif method in ("submit", "reserve"):
        submit(id, params[0])
    elif method in ("cancel_job", "release"):
        end_job(id, params[0], method == "release")
    elif method == "job" and params[0]["job"] in jobs:
        say([1, id, None, jobs[params[0]["job"]]])
    elif method == "job":
        say([1, id, error("not_found", -106, "there is no such job"), None])
    elif method == "jobs":
        say([1, id, None, list(jobs.values())])
    else:
        say([1, id, error("not_supported", -405, "no method " + method), None])


drains = []


def notified(method, params):
    if method == "cancel":
        seen["cancels"].append(params[0])
        if held.pop(params[0], None) is not None or streams.pop(params[0], None):
            say([1, params[0], error("cancelled", -103, "cancelled"), None])
    elif method == "grant":
        seen["grants"].append(params[1])
        if params[0] in streams:
            streams[params[0]]["credit"] += params[1]
            send_parts(params[0])
    elif method == "lease_write":
        seen["lease_writes"] += 1
        os.pwrite(leases[params[0]], params[2], params[1])
    elif method == "lease_release":
        seen["released"].append(params[0])


def hello():
    kind = option("hello", "good")
    if kind == "once" and not once("started"):
        kind = "exit70"
    if kind == "none":
        time.sleep(3600)
    if kind == "garbage":
        write_frame(b"\xc1")
    if kind == "exit64":
        sys.stderr.write("fake-port: it does not like its options\n")
        os._exit(64)
    if kind == "exit70":
        os._exit(70)
    protocol = 99 if kind == "version" else 1
    map = {"protocol": protocol, "version": "0.0.0", "pid": os.getpid(),
           "clock_ns": time.monotonic_ns(), "max_frame_bytes": option("max-frame", 64 << 20),
           "max_nesting": 24, "max_values": option("max-values", 4 << 20), "devices": [], "models": [],
           "credit": {"requests": option("requests", 1000), "bytes": option("bytes", 1 << 30)}}
    if kind == "lacking":
        del map["credit"]
    if option("lease-min", 1 << 20):
        map["lease_bytes"] = {"min": option("lease-min", 1 << 20), "max": 1 << 30}
    say([2, "hello", [map]])


def main():
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    hello()
    frame = -1
    while True:
        frame += 1
        reader = Reader(read_exactly(struct.unpack(">I", read_exactly(4))[0]))
        count = 0
        while reader.at < len(reader.data):
            message = reader.term()
            # Of those that tests send; what asks now and then how it is comes when it comes.
            count += message[0] == 0 and text(message[2]) == "infer"
            if message[0] == 0:
                call(message[1], message[2], message[3], frame)
            else:
                notified(message[1], message[2])
        seen["frames"] = seen["frames"][-63:] + [count]
        if not held and not streams:
            while drains:
                say([1, drains.pop(), None, None])


main()
