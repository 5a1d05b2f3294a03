# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.RealPort do
  # The sched-port that was built from this source: that of GPU_SCHED_PORT, which ./dev test sets,
  # else the newest of a build folder beside this project.
  @moduledoc false

  @root Path.expand("../../..", __DIR__)

  def path do
    built = Path.wildcard(Path.join(@root, "build*/port/sched-port"))
    System.get_env("GPU_SCHED_PORT") || Enum.max_by(built, &File.stat!(&1).mtime, fn -> nil end)
  end

  # A reason to skip, or nil.
  def missing do
    unless path(), do: "sched-port is not built: ./dev build, or set GPU_SCHED_PORT"
  end

  @model Path.join(@root, ".cache/models/all-MiniLM-L6-v2")

  def minilm, do: System.get_env("GPU_SCHED_MINILM") || @model

  def minilm_missing do
    missing() ||
      unless File.exists?(Path.join(minilm(), "model.safetensors")),
        do: "the weights of all-MiniLM-L6-v2 are not there: ./dev weights fetches them"
  end

  # Starts one under the test's supervisor, with a model "noop" that costs nothing and one "parts"
  # that answers in parts.
  def start(options \\ []) do
    name = :"real_#{System.unique_integer([:positive])}"

    defaults = [
      name: name,
      port_path: path(),
      restart_backoff: {10, 500},
      models: [[name: "noop", engine: "synthetic"]]
    ]

    child = {GpuSched, Keyword.merge(defaults, options)}
    pid = ExUnit.Callbacks.start_supervised!(child, id: name)
    {name, pid}
  end

  def bytes(data), do: %{"datatype" => "UINT8", "shape" => [byte_size(data)], "data" => data}

  # What the engine "synthetic" answers: the length and its words, each times an odd number.
  def checksum(data) do
    padded = data <> :binary.copy(<<0>>, rem(8 - rem(byte_size(data), 8), 8))
    words = for <<w::little-64 <- padded>>, do: w

    sum =
      words
      |> Enum.with_index()
      |> Enum.reduce(byte_size(data), fn {w, i}, sum -> sum + w * (2 * i + 1) end)

    Bitwise.band(sum, 0xFFFFFFFFFFFFFFFF)
  end
end
