# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.MixProject do
  use Mix.Project

  @version "0.1.0"

  def project do
    [
      app: :gpu_sched,
      version: @version,
      elixir: "~> 1.14",
      elixirc_paths: elixirc_paths(Mix.env()),
      start_permanent: Mix.env() == :prod,
      test_coverage: [summary: false],
      # Looked for when it is asked for: see GpuSched.Web.
      xref: [exclude: [:inets, :httpd, :httpd_util]],
      deps: [],
      name: "GpuSched",
      description: "Batched inference on the GPUs of another machine, from any BEAM node",
      package: package(),
      docs: [
        main: "GpuSched",
        extras: ["README.md", "../docs/protocol.md"] ++ Path.wildcard("guides/*.{md,livemd}")
      ]
    ]
  end

  def application do
    [mod: {GpuSched.Application, []}, extra_applications: [:logger]]
  end

  defp package do
    [
      licenses: ["Apache-2.0"],
      files: ~w(bin lib guides mix.exs README.md .formatter.exs),
      links: %{}
    ]
  end

  defp elixirc_paths(:test), do: ["lib", "test/support"]
  defp elixirc_paths(_env), do: ["lib"]
end
