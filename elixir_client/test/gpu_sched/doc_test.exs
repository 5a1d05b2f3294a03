# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.DocTest do
  # The examples of the documentation, with the real sched-port and the model that they speak of.
  use ExUnit.Case, async: false

  alias GpuSched.RealPort

  @moduletag capture_log: true
  if reason = RealPort.minilm_missing(), do: @moduletag(skip: reason)

  setup_all do
    # One for all of them: loading the weights takes a while.
    unless RealPort.minilm_missing() do
      start_supervised!(
        {GpuSched,
         name: MyApp.Gpu,
         port_path: RealPort.path(),
         models: [
           [name: "minilm", path: RealPort.minilm()],
           [name: "ticker", engine: "synthetic", parameters: [stream: true]]
         ]}
      )

      {:ok, _models} = GpuSched.await_ready(MyApp.Gpu)
    end

    :ok
  end

  doctest GpuSched
  doctest GpuSched.Error
end
