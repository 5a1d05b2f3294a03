# SPDX-License-Identifier: Apache-2.0
#
# The supervision tree of the demo's host: one scheduler with two models. "minilm" turns texts into
# vectors; "ticker" computes nothing and answers in parts, each after 150 ms.
[
  {GpuSched,
   name: GpuSched,
   models: [
     [name: "minilm", path: System.fetch_env!("GPU_SCHED_DEMO_MODEL")],
     [name: "ticker", engine: "synthetic", parameters: %{a_us: 150_000}]
   ]}
]
