# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.DocTest do
  # The examples of the documentation, which talk to a scheduler as the documentation starts it.
  use ExUnit.Case, async: false

  alias GpuSched.RealPort

  @moduletag timeout: 120_000
  if reason = RealPort.minilm_missing(), do: @moduletag(skip: reason)

  setup_all do
    models = [[name: "minilm", path: RealPort.minilm()], [name: "noop", engine: "synthetic"]]
    start_supervised!({GpuSched, name: MyApp.Gpu, port_path: RealPort.path(), models: models})
    :ok
  end

  doctest GpuSched
  doctest GpuSched.Error
end
