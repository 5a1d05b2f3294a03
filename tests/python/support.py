# SPDX-License-Identifier: Apache-2.0
"""Where the tests find sched-port and the weights, and what they look up in /proc."""

import json
import math
import os
import random
import shutil
import struct
import time
import unittest

from sched_port_client import Client

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def find_port():
    given = os.environ.get("GPU_SCHED_PORT")
    for path in (given, os.path.join(ROOT, "build", "port", "sched-port")):
        if path and os.access(path, os.X_OK):
            return path
    return shutil.which("sched-port")


def find_model():
    path = os.environ.get("GPU_SCHED_MINILM") or os.path.join(
        ROOT, ".cache", "models", "all-MiniLM-L6-v2"
    )
    return path if os.path.isdir(path) else None


def write_tiny_bert(folder, heads=4, hidden=48, intermediate=80, layers=2):
    """A BERT of random weights, in Hugging Face's layout: small enough to be made on the spot."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "on", "a", "mat"]
    normal = random.Random(1).gauss
    tensors = {}

    def add(name, *shape, scale=0.1, centre=0.0):
        tensors[name] = (shape, [normal(centre, scale) for _ in range(math.prod(shape))])

    def add_norm(base):
        add(base + ".weight", hidden, centre=1.0)
        add(base + ".bias", hidden)

    def add_linear(base, outputs, inputs):
        add(base + ".weight", outputs, inputs, scale=1.5 / math.sqrt(inputs))
        add(base + ".bias", outputs)

    for table, rows in (("word", len(words)), ("position", 64), ("token_type", 2)):
        add(f"embeddings.{table}_embeddings.weight", rows, hidden, scale=0.5)
    add_norm("embeddings.LayerNorm")
    for i in range(layers):
        base = f"encoder.layer.{i}"
        for part in ("query", "key", "value"):
            add_linear(f"{base}.attention.self.{part}", hidden, hidden)
        add_linear(base + ".attention.output.dense", hidden, hidden)
        add_norm(base + ".attention.output.LayerNorm")
        add_linear(base + ".intermediate.dense", intermediate, hidden)
        add_linear(base + ".output.dense", hidden, intermediate)
        add_norm(base + ".output.LayerNorm")

    header, data = {}, b""
    for name, (shape, values) in tensors.items():
        more = struct.pack(f"<{len(values)}f", *values)
        header[name] = {
            "dtype": "F32",
            "shape": shape,
            "data_offsets": [len(data), len(data) + len(more)],
        }
        data += more
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    files = {
        "model.safetensors": struct.pack("<Q", len(text)) + text + data,
        "vocab.txt": "\n".join(words).encode() + b"\n",
        "tokenizer_config.json": json.dumps(
            {"do_lower_case": True, "tokenizer_class": "BertTokenizer"}
        ).encode(),
        "config.json": json.dumps(
            {
                "model_type": "bert",
                "hidden_size": hidden,
                "num_hidden_layers": layers,
                "num_attention_heads": heads,
                "intermediate_size": intermediate,
                "vocab_size": len(words),
                "max_position_embeddings": 64,
                "type_vocab_size": 2,
                "layer_norm_eps": 1e-12,
                "hidden_act": "gelu",
            }
        ).encode(),
    }
    for name, content in files.items():
        with open(os.path.join(folder, name), "wb") as file:
            file.write(content)


def read_safetensors(path):
    """name -> (shape, floats), of tensors in FP32."""
    with open(path, "rb") as file:
        content = file.read()
    (length,) = struct.unpack_from("<Q", content)
    out = {}
    for name, about in json.loads(content[8 : 8 + length]).items():
        begin, end = about["data_offsets"]
        out[name] = (
            about["shape"],
            struct.unpack_from(f"<{(end - begin) // 4}f", content, 8 + length + begin),
        )
    return out


def find_test_plugin(name):
    """A plugin that the tests in C build beside sched-port."""
    port = find_port()
    path = port and os.path.join(
        os.path.dirname(os.path.dirname(os.path.abspath(port))),
        "tests", "worker", "plugin", f"libsched-engine-{name}.so",
    )
    return path if path and os.path.isfile(path) else None


def wait_until(condition, what, seconds=60):
    """Asks until it is so. What is waited for is another process, which sends nothing here."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.002)


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def children(pid):
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as listed:
            found += [int(child) for child in listed.read().split()]
    return found


def descriptors(pid):
    """What a process has open: number -> what it is."""
    out = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            out[int(name)] = os.readlink(f"/proc/{pid}/fd/{name}")
        except FileNotFoundError:
            pass
    return out


class PortCase(unittest.TestCase):
    """A test with a sched-port of its own."""

    options = ()

    def setUp(self):
        self.program = find_port()
        if self.program is None:
            self.skipTest("no sched-port here: build it, or set GPU_SCHED_PORT")
        self.client = self.start(*self.options)

    def start(self, *options, **how):
        # One small device, so that tests may run beside others.
        client = Client(self.program, "--cpu-devices=1", "--cores-per-device=1", *options, **how)
        self.addCleanup(self.end, client)
        return client

    @staticmethod
    def end(client):
        if client.process.poll() is None:
            try:
                client.close()
            except Exception:
                client.process.kill()
                client.process.wait()
                raise

    def assert_error(self, code, call, *args, **kwargs):
        from sched_port_client import SchedError

        with self.assertRaises(SchedError) as caught:
            call(*args, **kwargs)
        self.assertEqual(caught.exception.code, code, caught.exception)
        return caught.exception
