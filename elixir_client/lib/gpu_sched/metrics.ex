# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Metrics do
  @moduledoc """
  The counters of a scheduler as Prometheus reads them, in its text format.

  `GpuSched.Web` serves them at `/metrics`; with a web server of one's own:

      case GpuSched.Metrics.text(MyApp.Gpu) do
        {:ok, text} -> send_resp(conn, 200, text)
        {:error, error} -> send_resp(conn, 503, Exception.message(error))
      end

  What Triton has too has its name and its meaning, so that dashboards made for it show this:

  | name | labels | here |
  |---|---|---|
  | `nv_inference_request_success` | `model`, `version` | requests that were answered |
  | `nv_inference_request_failure` | and `reason` | `REJECTED`: refused for want of room, or expired in the queue; `CANCELED`; `BACKEND`: the engine failed |
  | `nv_inference_count` | `model`, `version` | requests that were answered; a request is one, however many rows its tensors have |
  | `nv_inference_exec_count` | | batches that ran; of a model that works in steps, steps |
  | `nv_inference_pending_request_count` | | requests in the queue |
  | `nv_inference_request_duration_us` | | in the queue and in the batch, summed over those answered |
  | `nv_inference_queue_duration_us` | | in the queue |
  | `nv_inference_compute_infer_duration_us` | | in the batch |
  | `nv_gpu_utilization` | `gpu_uuid`, `device` | in how much of the last moment the GPU computed anything, 0 to 1 |
  | `nv_gpu_memory_total_bytes`, `nv_gpu_memory_used_bytes` | | by whomever |
  | `nv_gpu_power_usage`, `nv_gpu_power_limit` | | watts |
  | `nv_energy_consumption` | | joules, since the driver was loaded |

  `version` is always `1`. Triton's `compute_input` and `compute_output` durations are part of `infer`
  here. A GPU that is several devices is told once, as the first of them; one whose instruments can't
  be read, not at all (`GpuSched.devices/1` says why).

  The rest is `gpu_sched_*`: as histograms, whose buckets double, of those that were answered,

    * `gpu_sched_queue_seconds`, `gpu_sched_compute_seconds`, `gpu_sched_request_seconds` (both);
    * `gpu_sched_batch_requests`: in how large a batch each was;

  and

    * `gpu_sched_requests_running`, `gpu_sched_requests_expired_total`,
      `gpu_sched_requests_retried_total`, `gpu_sched_units_total`, by `model`;
    * `gpu_sched_device_up`, `gpu_sched_device_busy_seconds_total`, `gpu_sched_device_batches_total`,
      `gpu_sched_device_restarts_total`, by `device`;
    * by `gpu_uuid` and `device`: `gpu_sched_gpu_temperature_celsius`, `gpu_sched_gpu_memory_busy_ratio`,
      `gpu_sched_gpu_throttled` (0 or 1, by `reason`: why its clock is below what it could be),
      `gpu_sched_gpu_nvlinks` (by `state`), `gpu_sched_gpu_ecc_errors_total` (by `kind`),
      `gpu_sched_gpu_xid_errors_total` and `gpu_sched_gpu_last_xid`;
    * `gpu_sched_refused_total`, by `at`: `port`, and `credit`, where callers were refused before they
      sent anything, which no model knows of;
    * `gpu_sched_jobs`, by `state`;
    * `gpu_sched_uptime_seconds`, `gpu_sched_worker_deaths_total`, `gpu_sched_arena_bytes`,
      `gpu_sched_arena_used_bytes`, `gpu_sched_port_bytes_total` by `direction`,
      `gpu_sched_port_bad_frames_total`.
  """

  import Bitwise

  alias GpuSched.Error

  @doc """
  The metrics of a scheduler, which may be on another node.
  """
  @spec text(GpuSched.server()) :: {:ok, iodata} | {:error, Error.t()}
  def text(server) do
    with {:ok, stats} <- GpuSched.stats(server),
         {:ok, histograms} <- GpuSched.histograms(server),
         {:ok, devices} <- GpuSched.devices(server),
         {:ok, jobs} <- GpuSched.jobs(server) do
      {:ok, write(stats, histograms, devices, jobs)}
    end
  end

  @doc false
  @spec write(map, map, [map], [map]) :: iodata
  def write(stats, histograms, devices, jobs) do
    [
      models(stats["models"]),
      histograms(stats["models"], histograms),
      devices(devices),
      gpus(devices),
      whole(stats, jobs)
    ]
  end

  # ---- by model

  defp models(models) do
    models = Enum.sort(models)

    of = fn name, help, type, value ->
      family(name, help, type, for({m, c} <- models, do: {version(m), value.(c)}))
    end

    [
      of.(
        "nv_inference_request_success",
        "Requests that were answered.",
        "counter",
        & &1["completed"]
      ),
      family(
        "nv_inference_request_failure",
        "Requests that were not, by why.",
        "counter",
        for {m, c} <- models,
            {reason, n} <- [
              {"REJECTED", c["refused"] + c["expired"]},
              {"CANCELED", c["cancelled"]},
              {"BACKEND", c["failed"]}
            ] do
          {version(m) ++ [reason: reason], n}
        end
      ),
      of.(
        "nv_inference_count",
        "Requests that were answered.",
        "counter",
        & &1["completed"]
      ),
      of.("nv_inference_exec_count", "Batches that ran.", "counter", & &1["batches"]),
      of.(
        "nv_inference_pending_request_count",
        "Requests in the queue.",
        "gauge",
        & &1["queued"]
      ),
      of.(
        "nv_inference_request_duration_us",
        "Time in the queue and in the batch.",
        "counter",
        &(&1["queue_us"] + &1["compute_us"])
      ),
      of.("nv_inference_queue_duration_us", "Time in the queue.", "counter", & &1["queue_us"]),
      of.(
        "nv_inference_compute_infer_duration_us",
        "Time in the batch.",
        "counter",
        & &1["compute_us"]
      ),
      ours(models, "gpu_sched_requests_running", "Requests in a batch.", "gauge", "running"),
      ours(
        models,
        "gpu_sched_requests_expired_total",
        "Requests whose deadline passed.",
        "counter",
        "expired"
      ),
      ours(
        models,
        "gpu_sched_requests_retried_total",
        "Requests put back when a worker died.",
        "counter",
        "retried"
      ),
      ours(
        models,
        "gpu_sched_units_total",
        "Units of cost in the batches that ran.",
        "counter",
        "batched_units"
      )
    ]
  end

  defp version(model), do: [model: model, version: "1"]

  defp ours(models, name, help, type, key),
    do: family(name, help, type, for({m, c} <- models, do: {[model: m], c[key]}))

  defp histograms(models, histograms) do
    kinds = [
      {"gpu_sched_queue_seconds", "Time in the queue.", "queue_us", 1.0e6,
       &(&1["queue_us"] / 1.0e6)},
      {"gpu_sched_compute_seconds", "Time in the batch.", "compute_us", 1.0e6,
       &(&1["compute_us"] / 1.0e6)},
      {"gpu_sched_request_seconds", "Time in the queue and in the batch.", "total_us", 1.0e6,
       &((&1["queue_us"] + &1["compute_us"]) / 1.0e6)},
      {"gpu_sched_batch_requests", "Requests in the batch of each.", "batch", 1,
       & &1["batch_sum"]}
    ]

    for {name, help, key, unit, sum} <- kinds do
      [
        head(name, help, "histogram"),
        for {model, h} <- Enum.sort(histograms), is_map_key(models, model) do
          histogram(
            name,
            [model: model],
            h[key],
            unit,
            sum.(Map.merge(models[model], Map.take(h, ["batch_sum"])))
          )
        end
      ]
    end
  end

  # The last bucket has no limit.
  defp histogram(name, labels, buckets, unit, sum) do
    {bounded, _last} = Enum.split(buckets, -1)

    {lines, _count} =
      bounded
      |> Enum.with_index()
      |> Enum.map_reduce(0, fn {n, i}, below ->
        count = below + n
        {sample(name <> "_bucket", labels ++ [le: bound(i, unit)], count), count}
      end)

    total = Enum.sum(buckets)

    [
      lines,
      sample(name <> "_bucket", labels ++ [le: "+Inf"], total),
      sample(name <> "_sum", labels, sum),
      sample(name <> "_count", labels, total)
    ]
  end

  defp bound(i, 1), do: Integer.to_string(1 <<< i)
  defp bound(i, unit), do: :erlang.float_to_binary((1 <<< i) / unit, [:compact, decimals: 6])

  # ---- the rest

  defp devices(devices) do
    of = fn name, help, type, value ->
      family(name, help, type, for(d <- devices, do: {[device: d["name"]], value.(d)}))
    end

    [
      family(
        "gpu_sched_device_up",
        "Whether the device computes.",
        "gauge",
        for d <- devices do
          {[device: d["name"], kind: d["kind"], model: d["model"]],
           if(d["state"] == "up", do: 1, else: 0)}
        end
      ),
      of.(
        "gpu_sched_device_busy_seconds_total",
        "Time in batches.",
        "counter",
        &((&1["busy_us"] || 0) / 1.0e6)
      ),
      of.("gpu_sched_device_batches_total", "Batches.", "counter", &(&1["batches"] || 0)),
      of.(
        "gpu_sched_device_restarts_total",
        "Times its worker was started again.",
        "counter",
        &(&1["restarts"] || 0)
      )
    ]
  end

  @throttle ~w(power thermal hardware brake setting sync)

  defp gpus(devices) do
    gpus =
      devices
      |> Enum.filter(& &1["readings"]["uuid"])
      |> Enum.uniq_by(& &1["readings"]["uuid"])

    of = fn name, help, type, value ->
      family(name, help, type, for(d <- gpus, do: {gpu(d), value.(d["readings"])}))
    end

    by = fn name, help, type, label, values ->
      family(
        name,
        help,
        type,
        for(d <- gpus, {what, n} <- values.(d["readings"]), do: {gpu(d) ++ [{label, what}], n})
      )
    end

    [
      of.(
        "nv_gpu_utilization",
        "In how much of the last moment something was computed.",
        "gauge",
        &divided(&1["utilization_percent"], 100)
      ),
      of.(
        "nv_gpu_memory_total_bytes",
        "Memory of the GPU.",
        "gauge",
        & &1["memory_total_bytes"]
      ),
      of.(
        "nv_gpu_memory_used_bytes",
        "What of it is in use.",
        "gauge",
        & &1["memory_used_bytes"]
      ),
      of.("nv_gpu_power_usage", "Watts.", "gauge", &divided(&1["power_mw"], 1_000)),
      of.(
        "nv_gpu_power_limit",
        "Watts it may take.",
        "gauge",
        &divided(&1["power_limit_mw"], 1_000)
      ),
      of.(
        "nv_energy_consumption",
        "Joules since the driver was loaded.",
        "counter",
        &divided(&1["energy_mj"], 1_000)
      ),
      of.("gpu_sched_gpu_temperature_celsius", "Of the chip.", "gauge", & &1["temperature_c"]),
      of.(
        "gpu_sched_gpu_memory_busy_ratio",
        "In how much of the last moment memory was accessed.",
        "gauge",
        &divided(&1["memory_busy_percent"], 100)
      ),
      by.(
        "gpu_sched_gpu_throttled",
        "Why the clock is below what it could be.",
        "gauge",
        :reason,
        fn readings ->
          for why <- @throttle, now = readings["throttle"] do
            {why, if(why in now, do: 1, else: 0)}
          end
        end
      ),
      by.("gpu_sched_gpu_nvlinks", "NVLinks.", "gauge", :state, fn readings ->
        for all <- List.wrap(readings["links"]),
            {state, n} <- [{"up", readings["links_up"]}, {"down", all - readings["links_up"]}],
            do: {state, n}
      end),
      by.(
        "gpu_sched_gpu_ecc_errors_total",
        "Errors of memory since the driver was loaded.",
        "counter",
        :kind,
        &for(kind <- ["corrected", "uncorrected"], do: {kind, &1["ecc_" <> kind]})
      ),
      of.(
        "gpu_sched_gpu_xid_errors_total",
        "Errors that the driver told.",
        "counter",
        & &1["xid_count"]
      ),
      of.("gpu_sched_gpu_last_xid", "The number of the last of them.", "gauge", & &1["last_xid"])
    ]
  end

  defp gpu(device), do: [gpu_uuid: device["readings"]["uuid"], device: device["name"]]

  defp divided(nil, _by), do: nil
  defp divided(n, by), do: n / by

  defp whole(stats, jobs) do
    port = stats["port"] || %{}

    [
      one(
        "gpu_sched_uptime_seconds",
        "How long sched-port is up.",
        "gauge",
        (stats["uptime_us"] || 0) / 1.0e6
      ),
      one(
        "gpu_sched_worker_deaths_total",
        "Workers that ended by themselves.",
        "counter",
        stats["worker_deaths"]
      ),
      one("gpu_sched_arena_bytes", "Memory for inputs.", "gauge", stats["arena_bytes"]),
      one("gpu_sched_arena_used_bytes", "What of it is in use.", "gauge", stats["arena_used"]),
      one(
        "gpu_sched_port_bad_frames_total",
        "Frames that sched-port refused.",
        "counter",
        port["bad_frames"]
      ),
      family("gpu_sched_port_bytes_total", "Bytes through the pipe.", "counter", [
        {[direction: "in"], port["bytes_in"]},
        {[direction: "out"], port["bytes_out"]}
      ]),
      family("gpu_sched_refused_total", "Requests refused for want of room.", "counter", [
        {[at: "credit"], stats["refused_for_credit"]},
        {[at: "port"], stats["requests"]["refused"]}
      ]),
      family(
        "gpu_sched_jobs",
        "Jobs that have not ended.",
        "gauge",
        for(
          {state, n} <- jobs |> by_state() |> Enum.sort(),
          do: {[state: state], n}
        )
      )
    ]
  end

  # Those of which there is none too: what comes and goes cannot be added up.
  defp by_state(jobs),
    do: Map.merge(%{"pending" => 0, "running" => 0}, Enum.frequencies_by(jobs, & &1["state"]))

  defp one(name, help, type, value), do: family(name, help, type, [{[], value}])

  # ---- the format

  defp family(name, help, type, samples),
    do: [
      head(name, help, type)
      | for({labels, value} <- samples, value != nil, do: sample(name, labels, value))
    ]

  defp head(name, help, type),
    do: ["# HELP ", name, " ", help, "\n# TYPE ", name, " ", type, "\n"]

  defp sample(name, [], value), do: [name, " ", number(value), "\n"]

  defp sample(name, labels, value) do
    pairs = for {key, text} <- labels, do: [Atom.to_string(key), "=\"", escape(text), "\""]
    [name, "{", Enum.intersperse(pairs, ","), "} ", number(value), "\n"]
  end

  defp escape(text) do
    text
    |> to_string()
    |> String.replace("\\", "\\\\")
    |> String.replace("\"", "\\\"")
    |> String.replace("\n", "\\n")
  end

  defp number(n) when is_integer(n), do: Integer.to_string(n)
  defp number(x) when is_float(x), do: :erlang.float_to_binary(x, [:short])
end
