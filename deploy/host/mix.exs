# SPDX-License-Identifier: Apache-2.0
defmodule GpuHost.MixProject do
  # A host and nothing else: a release that runs one scheduler. An application of your own needs none
  # of this; it has {GpuSched, …} in its supervision tree.
  use Mix.Project

  def project do
    [
      app: :gpu_host,
      version: "0.1.0",
      elixir: "~> 1.14",
      start_permanent: Mix.env() == :prod,
      deps: [{:gpu_sched, path: System.get_env("GPU_SCHED_CLIENT", "../../elixir_client")}],
      releases: [gpu_host: [include_executables_for: [:unix]]]
    ]
  end

  def application do
    [mod: {GpuHost, []}, extra_applications: [:logger]]
  end
end
