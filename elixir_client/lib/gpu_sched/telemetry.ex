# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Telemetry do
  @moduledoc """
  The events that are emitted where the application has `:telemetry` (it is looked for at run time,
  and not needed).

  Durations are in native time units, as everywhere in telemetry.

  | event | measurements | metadata |
  |---|---|---|
  | `[:gpu_sched, :infer, :start]` | `system_time`, `monotonic_time` | `server`, `model` |
  | `[:gpu_sched, :infer, :stop]` | `duration`, `monotonic_time` and, of a result, `queue_us`, `compute_us`, `batch` | `server`, `model`, `result` (`:ok` or `:error`), `reason` (of an error), `device` (of a result) |
  | `[:gpu_sched, :infer, :exception]` | `duration`, `monotonic_time` | `server`, `model`, `kind`, `reason`, `stacktrace` |
  | `[:gpu_sched, :admission, :refused]` | `count` (1), `retry_after_ms` | `reason` |
  | `[:gpu_sched, :port, :up]` | `count` (1) | `server`, `version`, `os_pid` |
  | `[:gpu_sched, :port, :down]` | `count` (1), `in_flight` | `server`, `reason`, `restart_ms` |
  | `[:gpu_sched, :model, :state]` | `count` (1) | `server`, `model`, `state`, `error` |
  | `[:gpu_sched, :device, :state]` | `count` (1) | `server`, `device`, `state`, `reason` |
  | `[:gpu_sched, :job, :state]` | `count` (1) | `server`, `job`, `name`, `state`, `error` |
  | `[:gpu_sched, :overload, :state]` | `count` (1), `refused` | `server`, `state` (`"begun"` or `"over"`), `at` (`"credit"`: callers were refused before they sent anything; `"port"`: by the scheduler) |
  | `[:gpu_sched, :load, :point]` | `throughput`, `p50_ms`, `p99_ms`, `failed` | `target`, `mode`, `offered`, `limited` |

  The span `:infer` is that of `GpuSched.infer/4` and of `GpuSched.async/4`, and is emitted in the
  process that waits for the result. `server` is the pid of the scheduler; of a request to another
  node it is what names it there, as `{name, node}`, and of one to `:any` it is `:any`.

  `:load` is emitted by `GpuSched.Load` for each point that was measured, in the process that called it.

  The events of ports, models, devices and overload are emitted by the owner of the port, on which everybody
  waits: a handler of theirs must not block.
  """

  @compile {:no_warn_undefined, :telemetry}

  @doc false
  def available?, do: :erlang.function_exported(:telemetry, :execute, 3)

  @doc false
  def execute(event, measurements, metadata) do
    if available?(), do: :telemetry.execute(event, measurements, metadata)
    :ok
  end

  # Around `fun`, where there is telemetry.
  @doc false
  def span(server, model, fun),
    do: if(available?(), do: infer(server, model, fun), else: fun.())

  @doc false
  def infer(server, model, fun) do
    about = %{server: server, model: model}
    start = System.monotonic_time()

    :telemetry.execute(
      [:gpu_sched, :infer, :start],
      %{system_time: System.system_time(), monotonic_time: start},
      about
    )

    try do
      fun.()
    catch
      kind, reason ->
        :telemetry.execute(
          [:gpu_sched, :infer, :exception],
          ended(start),
          Map.merge(about, %{kind: kind, reason: reason, stacktrace: __STACKTRACE__})
        )

        :erlang.raise(kind, reason, __STACKTRACE__)
    else
      {:ok, result} = ok ->
        measured =
          for {name, key} <- [queue_us: "queue_us", compute_us: "compute_us", batch: "batch"],
              is_map_key(result, key),
              into: ended(start),
              do: {name, result[key]}

        metadata = Map.merge(about, %{result: :ok, device: result["device"]})
        :telemetry.execute([:gpu_sched, :infer, :stop], measured, metadata)
        ok

      {:error, error} = failed ->
        metadata = Map.merge(about, %{result: :error, reason: error.reason})
        :telemetry.execute([:gpu_sched, :infer, :stop], ended(start), metadata)
        failed
    end
  end

  defp ended(start) do
    now = System.monotonic_time()
    %{duration: now - start, monotonic_time: now}
  end

  @doc false
  def refused(error) do
    execute(
      [:gpu_sched, :admission, :refused],
      %{count: 1, retry_after_ms: error.retry_after_ms},
      %{reason: error.reason}
    )

    error
  end
end
