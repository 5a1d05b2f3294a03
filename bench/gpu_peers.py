#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What others make of the same model on the same device, beside the benchmark "gpu".

    gpu_peers.py --model FOLDER [--crosscheck FILE] [--seconds S] [--device cuda|cpu] [--no-compile]
                 [--limit S]

Prints one JSON object as the benchmarks do; what can't be measured is listed in it, with the reason.
Where PyTorch or sentence-transformers is missing it says so, and ends with code 77.

peer_least_cosine: of our embeddings, as bench-gpu --out wrote them (crosscheck.safetensors), to those
of sentence-transformers in f32, of the same token ids and weights.

peer_sequences_per_s: sentence-transformers on batches of token ids of one length, or of mixed ones,
padded and sorted by length; the same with torch.compile; and its encode(), which tokenizes as well.

peer_attention_difference: of our attention to torch's scaled_dot_product_attention with each
backend that is there, the largest, relative to the largest value. peer_attention_us: what that takes
for 16384 tokens in sequences of one length.
"""

import argparse
import json
import math
import os
import signal
import struct
import sys
import time

SKIPPED = 77
LENGTHS = [16, 128, 512]
TOKENS = 65536
ATTENTION_TOKENS = 16384
MIXED_MEAN, MIXED_SIGMA, MAX_LENGTH = 49.0, 0.8, 512


def skip(why):
    print(f"gpu_peers: skipped: {why}", file=sys.stderr)
    sys.exit(SKIPPED)


def read_safetensors(torch, path):
    """The few tensors of a file of ours: I32 and F32."""
    with open(path, "rb") as file:
        data = bytearray(file.read())
    size, = struct.unpack_from("<Q", data)
    header = json.loads(data[8:8 + size])
    kinds = {"I32": torch.int32, "F32": torch.float32}
    found = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        values = torch.frombuffer(data, dtype=kinds[entry["dtype"]], count=(end - begin) // 4,
                                  offset=8 + size + begin)
        found[name] = values.reshape(entry["shape"]).clone()
    return found


def mixed_lengths(torch, n):
    """As the benchmark's: log-normal with a mean of 49 tokens."""
    generator = torch.Generator().manual_seed(20240)
    mu = math.log(MIXED_MEAN) - MIXED_SIGMA ** 2 / 2
    lengths = torch.exp(mu + MIXED_SIGMA * torch.randn(n, generator=generator)).round()
    return [int(length) for length in lengths.clamp(2, MAX_LENGTH)]


class Peers:
    def __init__(self, torch, transformers, options):
        self.torch, self.transformers, self.options = torch, transformers, options
        self.results, self.skipped = [], []
        self.begin = time.monotonic()
        self.device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.tokens = options.tokens
        # On a CPU it is only to be seen that it works.
        self.precision = "bf16" if self.device == "cuda" else "f32"
        self.dtype = torch.bfloat16 if self.device == "cuda" else torch.float32

    def add(self, metric, params, value, unit):
        self.results.append({"metric": metric, "params": params, "value": value, "unit": unit})

    def leave_out(self, what, error):
        reason = " ".join(str(error).split())[:300]
        self.skipped.append({"what": what, "why": reason or type(error).__name__})

    def synchronize(self):
        if self.device == "cuda":
            self.torch.cuda.synchronize()

    def time(self, call):
        """Seconds of a call, of many in a row."""
        call()
        self.synchronize()
        calls, begin = 0, time.monotonic()
        while True:
            call()
            calls += 1
            # Ten at a time, so that the device does not wait for the clock.
            if calls % 10 == 0 or calls == 1 or self.device == "cpu":
                self.synchronize()
                seconds = time.monotonic() - begin
                if seconds >= self.options.seconds:
                    return seconds / calls

    def load(self, dtype):
        model = self.transformers.SentenceTransformer(self.options.model, device=self.device)
        model.max_seq_length = MAX_LENGTH
        return model.to(dtype).eval()

    # ------------------------------------------------------------------------------------- values

    def padded(self, rows):
        longest = max(len(row) for row in rows)
        ids = self.torch.zeros(len(rows), longest, dtype=self.torch.long)
        mask = self.torch.zeros(len(rows), longest, dtype=self.torch.long)
        for i, row in enumerate(rows):
            ids[i, :len(row)] = row
            mask[i, :len(row)] = 1
        return {"input_ids": ids.to(self.device), "attention_mask": mask.to(self.device)}

    def embed(self, model, features):
        return model(dict(features))["sentence_embedding"]

    def compare_embeddings(self, ours):
        rows = self.torch.split(ours["ids"], ours["lengths"].tolist())
        model = self.load(self.torch.float32)
        with self.torch.inference_mode():
            theirs = self.embed(model, self.padded(rows)).float().cpu()
        least = self.torch.nn.functional.cosine_similarity(ours["embeddings"], theirs).min().item()
        self.add("peer_least_cosine", {"peer": "sentence-transformers", "sequences": len(rows)},
                 least, "")

    def backends(self):
        from torch.nn.attention import SDPBackend
        names = ["CUDNN_ATTENTION", "FLASH_ATTENTION", "EFFICIENT_ATTENTION", "MATH"]
        return {name.lower(): getattr(SDPBackend, name) for name in names
                if hasattr(SDPBackend, name)}

    def attend(self, backend, q, k, v):
        from torch.nn.attention import sdpa_kernel
        with sdpa_kernel(backend):
            return self.torch.nn.functional.scaled_dot_product_attention(q, k, v)

    def heads(self):
        with open(os.path.join(self.options.model, "config.json")) as file:
            return json.load(file)["num_attention_heads"]

    def compare_attention(self, ours):
        hidden = ours["context"].shape[1]
        heads = self.heads()
        lengths = ours["attention_lengths"].tolist()
        scale = ours["context"].abs().max().item()
        for name, backend in self.backends().items():
            # In f32 by torch's own formula; the others as fast as they are.
            dtype = self.torch.float32 if name == "math" else self.dtype
            worst, at = 0.0, 0
            try:
                for length in lengths:
                    rows = ours["qkv"][at:at + length].to(self.device, dtype)
                    q, k, v = (part.reshape(1, length, heads, hidden // heads).transpose(1, 2)
                               for part in rows.split(hidden, dim=1))
                    theirs = self.attend(backend, q, k, v).transpose(1, 2)
                    theirs = theirs.reshape(length, hidden).float().cpu()
                    difference = (theirs - ours["context"][at:at + length]).abs().max().item()
                    worst, at = max(worst, difference), at + length
            except RuntimeError as error:
                self.leave_out(f"attention by {name}", error)
                continue
            self.add("peer_attention_difference",
                     {"backend": name, "precision": "f32" if name == "math" else self.precision},
                     worst / scale, "")

    # -------------------------------------------------------------------------------------- times

    def batches(self, length):
        """Batches of about so many tokens, and how many sequences they have."""
        if length != "mixed":
            n = max(1, self.tokens // length)
            return [self.padded([self.torch.full((length,), 1007)] * n)], n
        lengths = sorted(mixed_lengths(self.torch, max(1, int(self.tokens / MIXED_MEAN))))
        pieces = [lengths[i:i + 256] for i in range(0, len(lengths), 256)]
        return ([self.padded([self.torch.full((length,), 1007) for length in piece])
                 for piece in pieces], len(lengths))

    def measure_batches(self, model, peer, lengths):
        for length in lengths:
            try:
                batches, n = self.batches(length)
                with self.torch.inference_mode():
                    seconds = self.time(lambda: [self.embed(model, batch) for batch in batches])
            except Exception as error:  # whatever a compiler may say
                self.leave_out(f"{peer}, length {length}", error)
                continue
            self.add("peer_sequences_per_s",
                     {"peer": peer, "length": length, "precision": self.precision}, n / seconds,
                     "sequences/s")

    def measure_encode(self, model):
        for length in self.options.lengths:
            n = max(1, self.tokens // length)
            # [CLS], letters that are a token each, [SEP].
            texts = [" ".join(["a"] * (length - 2))] * n
            seconds = self.time(lambda: model.encode(texts, batch_size=512, convert_to_tensor=True))
            self.add("peer_sequences_per_s",
                     {"peer": "sentence-transformers encode()", "length": length,
                      "precision": self.precision}, n / seconds, "sequences/s")

    def measure_attention(self):
        heads = self.heads()
        with open(os.path.join(self.options.model, "config.json")) as file:
            size = json.load(file)["hidden_size"] // heads
        for length in self.options.lengths:
            n = max(1, min(ATTENTION_TOKENS, self.tokens) // length)
            q, k, v = (self.torch.randn(n, heads, length, size, device=self.device,
                                        dtype=self.dtype) for _ in range(3))
            for name, backend in self.backends().items():
                try:
                    with self.torch.inference_mode():
                        seconds = self.time(lambda: self.attend(backend, q, k, v))
                except RuntimeError as error:
                    self.leave_out(f"attention by {name}, length {length}", error)
                    continue
                self.add("peer_attention_us",
                         {"backend": name, "length": length, "tokens": n * length,
                          "precision": self.precision}, seconds * 1e6, "us")

    def run(self):
        if self.options.crosscheck:
            ours = read_safetensors(self.torch, self.options.crosscheck)
            self.compare_embeddings(ours)
            self.compare_attention(ours)
        model = self.load(self.dtype)
        self.measure_batches(model, "sentence-transformers", self.options.lengths + ["mixed"])
        self.measure_encode(model)
        self.measure_attention()
        if self.options.compile:
            self.measure_compiled(model)
        else:
            self.leave_out("torch.compile", "not wanted")

    def measure_compiled(self, model):
        """The last, and only of one shape: each takes the compiler a while, maybe too long."""
        def late(_signal, _frame):
            raise TimeoutError("it does not end in the time that there is")

        left = self.options.limit - (time.monotonic() - self.begin)
        if self.options.limit > 0 and left < 10:
            self.leave_out("torch.compile", "there is no time left for it")
            return
        previous = signal.signal(signal.SIGALRM, late)
        if self.options.limit > 0:
            signal.setitimer(signal.ITIMER_REAL, left - 5)
        try:
            model[0] = self.torch.compile(model[0])
            self.measure_batches(model, "torch.compile", self.options.lengths[1:2])
        except Exception as error:  # as above
            self.leave_out("torch.compile", error)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)

    def report(self):
        torch = self.torch
        name = torch.cuda.get_device_name() if self.device == "cuda" else "CPU"
        return {"bench": "gpu_peers",
                "machine": {"device": name, "torch": torch.__version__,
                            "sentence-transformers": self.transformers.__version__,
                            "cudnn": torch.backends.cudnn.version()
                            if self.device == "cuda" else None},
                "results": self.results, "skipped": self.skipped}


def main():
    parser = argparse.ArgumentParser(prog="gpu_peers")
    parser.add_argument("--model", required=True, help="a folder in Hugging Face layout")
    parser.add_argument("--crosscheck", help="crosscheck.safetensors of bench-gpu --out")
    parser.add_argument("--seconds", type=float, default=1.0, help="that a measurement takes")
    parser.add_argument("--device", choices=["cuda", "cpu"])
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--tokens", type=int, default=TOKENS, help="of a batch")
    parser.add_argument("--limit", type=float, default=0, help="seconds that all may take")
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    options = parser.parse_args()
    # What is printed is the report alone.
    out, sys.stdout = sys.stdout, sys.stderr
    try:
        import torch
        import sentence_transformers
    except ImportError as error:
        skip(f"Python has no {error.name or 'module that is needed'} here ({sys.executable})")
    if options.device == "cuda" and not torch.cuda.is_available():
        skip("PyTorch sees no GPU")
    peers = Peers(torch, sentence_transformers, options)
    peers.run()
    json.dump(peers.report(), out)
    out.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
