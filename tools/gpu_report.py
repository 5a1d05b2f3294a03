# SPDX-License-Identifier: Apache-2.0
"""The report of gpu_check.py: what was run and what came of it, what was measured and what is aimed
at, as text for people and as JSON."""

import datetime
import json
import os

# What is aimed at on an H100 or H200: what it is called, of which results, what is looked at (their
# value or their ratio to what is beside them), and the least or the most. Of several results the best
# counts where it says so, else the worst.
AIMS = [
    ("embeddings like the CPU's, bf16", "least_cosine_to_cpu", {"precision": "bf16"}, "value",
     ">=", 0.9995, "worst"),
    ("embeddings like the CPU's, f32", "least_cosine_to_cpu", {"precision": "f32"}, "value", ">=",
     0.99999, "worst"),
    ("embeddings like sentence-transformers'", "peer_least_cosine", {}, "value", ">=", 0.9995,
     "worst"),
    ("attention like torch's", "peer_attention_difference", {}, "value", "<=", 0.01, "worst"),
    ("sequences/s through the scheduler, 128 tokens", "sequences_per_s", {"length": 128}, "value",
     ">=", 90000, "best"),
    ("the scheduler beside the bare loop, 16 tokens", "sequences_per_s", {"length": 16}, "ratio",
     ">=", 0.97, "best"),
    ("the scheduler beside the bare loop, 128 tokens", "sequences_per_s", {"length": 128}, "ratio",
     ">=", 0.97, "best"),
    ("the scheduler beside the bare loop, 512 tokens", "sequences_per_s", {"length": 512}, "ratio",
     ">=", 0.97, "best"),
    ("the scheduler beside the bare loop, mixed", "sequences_per_s", {"length": "mixed"}, "ratio",
     ">=", 0.97, "best"),
    ("the bare loop beside bare products, 128 tokens", "engine_sequences_per_s", {"length": 128},
     "ratio", ">=", 0.7, "worst"),
    ("the device busy at saturation, %, 128 tokens", "device_busy_percent", {"length": 128},
     "value", ">=", 97, "best"),
    ("one short request, p50, us", "single_request_p50_us", {}, "value", "<=", 500, "worst"),
    ("products beside bare ones", "gemm_gflop_per_s", {"size": 4096}, "ratio", ">=", 0.98,
     "worst"),
    ("the job gemm beside bare products", "job_gemm_gflop_per_s", {}, "ratio", ">=", 0.98, "worst"),
    ("uploads beside bare ones, 64 MiB", "direct_upload_gb_per_s", {"mib": 64.0}, "ratio", ">=",
     0.9, "worst"),
    ("downloads beside bare ones, 64 MiB", "direct_download_gb_per_s", {"mib": 64.0}, "ratio",
     ">=", 0.9, "worst"),
    ("the job allreduce beside NCCL, 256 MiB", "allreduce_busbw_gb_per_s", {"mib": 256.0}, "ratio",
     ">=", 0.98, "worst"),
]
PEER_AIM = 3
FAULT_AIMS = [("the device beside a fault, p99, times", "times", 1.1),
              ("served again after a fault, ms", "served_again_ms", 2000)]


def number(value):
    if not isinstance(value, float):
        return str(value)
    return f"{value:.6g}" if abs(value) < 1000 else f"{value:,.0f}"


def matches(result, metric, params):
    return result["metric"] == metric and \
        all(result["params"].get(name) == value for name, value in params.items())


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        lines.append("| " + " | ".join(number(cell).replace("|", "/") for cell in row) + " |")
    return "\n".join(lines) + "\n"


def judge(results, faults):
    """What became of each aim: name, bound, what was measured (None: nothing), whether it was
    reached."""
    judged = []

    def add(name, sign, bound, values, which):
        best = max if (sign == ">=") == (which == "best") else min
        value = best(values) if values else None
        reached = None if value is None else value >= bound if sign == ">=" else value <= bound
        judged.append({"aim": name, "bound": f"{sign} {bound}", "measured": value,
                       "reached": reached})

    for name, metric, params, field, sign, bound, which in AIMS:
        # Of ranks that share a GPU nothing is aimed at.
        values = [result[field] for result in results
                  if matches(result, metric, params) and field in result
                  and result["params"].get("gpus") != 1]
        add(name, sign, bound, values, which)
    ours = [result["value"] for result in results
            if matches(result, "sequences_per_s", {"length": 128})]
    theirs = [result["value"] for result in results
              if matches(result, "peer_sequences_per_s",
                         {"length": 128, "peer": "sentence-transformers"})]
    add("sequences/s beside sentence-transformers, 128 tokens", ">=", PEER_AIM,
        [max(ours) / max(theirs)] if ours and theirs else [], "best")
    for name, field, bound in FAULT_AIMS:
        add(name, "<=", bound, [fault[field] for fault in faults], "worst")
    return judged


def peers_beside(results):
    """Ours and theirs of each length: sequences a second, and the time of attention."""
    rows = []
    for length in sorted({str(result["params"]["length"]) for result in results
                          if result["metric"] == "peer_sequences_per_s"}):
        ours = [result["value"] for result in results if result["metric"] == "sequences_per_s"
                and str(result["params"]["length"]) == length]
        for result in results:
            if result["metric"] == "peer_sequences_per_s" and \
                    str(result["params"]["length"]) == length:
                rows.append(["sequences/s", length, result["params"]["peer"],
                             max(ours) if ours else "", result["value"],
                             max(ours) / result["value"] if ours else ""])
    for result in results:
        if result["metric"] != "peer_attention_us":
            continue
        own = [other["params"]["us"] for other in results
               if other["metric"].startswith("roofline_")
               and other["params"].get("operation") == "attention"
               and other["params"]["length"] == result["params"]["length"]]
        rows.append(["attention, us", result["params"]["length"], result["params"]["backend"],
                     own[0] if own else "", result["value"],
                     result["value"] / own[0] if own else ""])
    return rows


class Report:
    def __init__(self):
        self.parts = []
        self.machine = {}
        self.results = []

    def add(self, part, state, text, **details):
        print(f"{part}: {state}: {text}", flush=True)
        self.parts.append({"part": part, "state": state, "text": text, **details})

    def exit_code(self):
        states = [part["state"] for part in self.parts]
        return 0 if "failed" not in states and "passed" in states else 1

    def faults(self):
        return [fault for part in self.parts for fault in part.get("faults", [])]

    def measured(self):
        """Tables of all that was measured, the roofline by itself."""
        roofline = [r for r in self.results if r["metric"].startswith("roofline_")]
        rest = [r for r in self.results if r not in roofline]
        text = ""
        if rest:
            text += "\n## Measured\n\n" + table(
                ["what", "of", "value", "unit", "beside", "ratio"],
                [[r["metric"], ", ".join(f"{k} {number(v)}" for k, v in r["params"].items()),
                  r["value"], r["unit"], r.get("baseline", ""), r.get("ratio", "")] for r in rest])
        if roofline:
            text += ("\n## Roofline\n\nOf each operation: what it can't do without, its time, and in "
                     "what takes longer at the peak, its rate beside that peak.\n\n")
            text += table(
                ["operation", "length", "GFLOP", "MB", "us", "bound by", "rate", "unit", "share"],
                [[r["params"]["operation"], r["params"]["length"], r["params"]["gflop"],
                  r["params"]["mb"], r["params"]["us"],
                  "products" if "gflop" in r["metric"] else "memory", r["value"], r["unit"],
                  r.get("ratio", "")] for r in roofline])
        return text

    def text(self, when):
        text = f"# GPU report, {when}\n\n"
        if self.machine:
            text += table(["", ""], list(self.machine.items())) + "\n"
        text += table(["part", "state", ""],
                      [[p["part"], p["state"], p["text"]] for p in self.parts])
        judged = judge(self.results, self.faults())
        if self.results or self.faults():
            text += "\n## Aimed at, on an H100 or H200\n\n" + table(
                ["", "aim", "measured", "reached"],
                [[a["aim"], a["bound"], "not measured" if a["measured"] is None else a["measured"],
                  {None: "", True: "yes", False: "no"}[a["reached"]]] for a in judged])
        beside = peers_beside(self.results)
        if beside:
            text += "\n## Beside others\n\n" + table(
                ["what", "length", "peer", "ours", "theirs", "times as fast"], beside)
        text += self.measured()
        for part in self.parts:
            if part.get("output"):
                text += f"\n## {part['part']}\n\n```\n{part['output'].rstrip()}\n```\n"
        return text

    def write(self, folder):
        os.makedirs(folder, exist_ok=True)
        when = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        with open(os.path.join(folder, "gpu-report.json"), "w") as out:
            json.dump({"when": when, "machine": self.machine, "parts": self.parts,
                       "aims": judge(self.results, self.faults()), "results": self.results}, out,
                      indent=1)
        with open(os.path.join(folder, "gpu-report.md"), "w") as out:
            out.write(self.text(when))
