# SPDX-License-Identifier: Apache-2.0
import Config

config :gpu_host, models: System.get_env("GPU_SCHED_MODELS", "/models")

if region = System.get_env("GPU_SCHED_REGION") || System.get_env("FLY_REGION"),
  do: config(:gpu_sched, region: region)
