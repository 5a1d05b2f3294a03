# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Test.Port do
  # Plays sched-port: a process that reads the frames of docs/protocol.md and answers them with what
  # functions of a test say.
  @moduledoc false

  alias GpuSched.{Error, Msgpack, Protocol, Tensor}

  defstruct [
    :owner,
    :table,
    :config,
    running: %{},
    by_monitor: %{},
    jobs: %{},
    counters: %{},
    draining: [],
    last_job: 0
  ]

  # What does not change in any of its counters.
  @zero Map.new(
          ~w(submitted completed failed cancelled expired refused retried batches batched_requests
             batched_units queue_us compute_us queued running),
          &{&1, 0}
        )

  @spec start_link(map, [String.t()]) :: pid
  def start_link(config, args) do
    owner = self()
    spawn_link(fn -> init(owner, config, args) end)
  end

  defp init(owner, config, args) do
    first = Enum.find_value(args, 1, &first_job/1)
    state = %__MODULE__{owner: owner, table: config.table, config: config, last_job: first - 1}

    say(state, "hello", %{
      "protocol" => Protocol.version(),
      "version" => "test",
      "pid" => System.pid() |> String.to_integer(),
      "clock_ns" => GpuSched.Admission.now(),
      "max_frame_bytes" => 64 * 1024 * 1024,
      "credit" => %{"requests" => config.credit, "bytes" => 1_073_741_824},
      "devices" => devices(state),
      "models" => models(state)
    })

    loop(state)
  end

  defp first_job("--first-job=" <> n), do: String.to_integer(n)
  defp first_job(_other), do: nil

  defp loop(state) do
    receive do
      {:frame, frame} -> state |> read(frame) |> loop()
      {:answer, id, outcome} -> state |> answered(id, outcome) |> loop()
      {:progress, job, done, total} -> state |> progress(job, done, total) |> loop()
      {:happen, event} -> state |> tell(event) |> loop()
      {:DOWN, monitor, :process, _pid, reason} -> state |> down(monitor, reason) |> loop()
    end
  end

  # ---- frames

  defp read(state, ""), do: state

  defp read(state, frame) do
    {:ok, message, rest} = Msgpack.decode(frame)

    case message do
      [0, id, method, params] -> call(state, method, id, params)
      [2, method, params] -> notified(state, method, params)
    end
    |> read(rest)
  end

  defp write(state, messages) do
    send(state.owner, {self(), {:data, IO.iodata_to_binary(messages)}})
    state
  end

  defp say(state, method, map),
    do: write(state, [<<0x93, 0x02>>, Msgpack.str(method), 0x91, pack(map)])

  defp tell(state, event), do: say(state, "event", event)

  defp reply(state, id, result),
    do: write(state, [<<0x94, 0x01, 0xCE, id::32, 0xC0>>, pack(result)])

  defp refuse(state, id, reason, message \\ nil, retry \\ nil) do
    error = Error.to_wire(reason, message, retry)
    write(state, [<<0x94, 0x01, 0xCE, id::32>>, pack(error), 0xC0])
  end

  defp part(state, id, outputs),
    do:
      write(state, [
        <<0x93, 0x02, 0xA4, "part", 0x92, 0xCE, id::32>>,
        pack(%{"outputs" => outputs})
      ])

  defp pack(term), do: Msgpack.encode!(term)

  # ---- requests

  defp call(state, "infer", id, [params]), do: infer(state, id, params)
  defp call(state, "ping", id, [term]), do: reply(state, id, term)
  defp call(state, "models", id, _params), do: reply(state, id, models(state))
  defp call(state, "devices", id, _params), do: reply(state, id, devices(state))
  defp call(state, "stats", id, _params), do: reply(state, id, stats(state))

  defp call(state, "histograms", id, _params) do
    empty = List.duplicate(0, 32)

    one = %{
      "queue_us" => empty,
      "compute_us" => empty,
      "total_us" => empty,
      "batch" => empty,
      "batch_sum" => 0
    }

    reply(state, id, Map.new(names(state), &{&1, one}))
  end

  defp call(state, "load", id, [%{"name" => name}]) do
    if known?(state, name) do
      refuse(state, id, :already_loaded)
    else
      refuse(
        state,
        id,
        :bad_model,
        "GpuSched.Test has no model #{name}: say what it answers with models:"
      )
    end
  end

  defp call(state, "unload", id, [%{"name" => name}]) do
    if known?(state, name) do
      :ets.delete(state.table, {:model, name})
      state |> reply(id, nil) |> tell(%{"event" => "model", "name" => name, "state" => "gone"})
    else
      refuse(state, id, :unknown_model)
    end
  end

  defp call(state, "wait_ready", id, [%{"name" => name}]) do
    if known?(state, name),
      do: reply(state, id, model(name)),
      else: refuse(state, id, :unknown_model)
  end

  defp call(state, "drain", id, _params), do: drained(%{state | draining: [id | state.draining]})
  defp call(state, "submit", id, [params]), do: submit(state, id, params)
  defp call(state, "reserve", id, [params]), do: reserve(state, id, params)

  defp call(state, method, id, [%{"job" => job}])
       when method in ["cancel_job", "release", "job"] do
    case state.jobs do
      %{^job => info} -> job_call(state, method, id, job, info)
      _ -> refuse(state, id, :not_found)
    end
  end

  defp call(state, "jobs", id, _params) do
    reply(state, id, state.jobs |> Enum.sort() |> Enum.map(fn {_job, info} -> info.row end))
  end

  defp call(state, method, id, _params),
    do: refuse(state, id, :not_supported, "GpuSched.Test has no #{method}")

  defp notified(state, "cancel", [id]) do
    case state.running do
      %{^id => _running} ->
        state |> forget(id) |> count("cancelled") |> refuse(id, :cancelled) |> drained()

      _ ->
        state
    end
  end

  defp notified(state, "grant", [id, n]) do
    case state.running do
      %{^id => %{pid: pid}} -> send(pid, {:grant, n})
      _ -> :ok
    end

    state
  end

  defp notified(state, _method, _params), do: state

  # ---- infer

  defp infer(state, id, %{"model" => model, "inputs" => inputs} = params) do
    request = %{
      model: model,
      inputs: inputs,
      parameters: params["parameters"] || %{},
      client: params["client"],
      priority: params["priority"] || 0
    }

    :ets.insert(state.table, {{:request, System.unique_integer([:monotonic])}, request})

    case :ets.lookup(state.table, {:model, model}) do
      [] ->
        refuse(state, id, :unknown_model)

      [{_key, reason}] when is_atom(reason) ->
        state |> count("refused") |> refuse(id, reason, nil, retry(reason))

      [{_key, answer}] ->
        run(state, id, fn -> outcome(answer, request) end, params["parts"])
    end
  end

  defp retry(reason) when reason in [:queue_full, :overloaded, :client_limit], do: 10
  defp retry(_reason), do: nil

  # In a process of its own, which may take as long as it likes.
  defp run(state, id, fun, credit) do
    port = self()

    {pid, monitor} =
      spawn_monitor(fn -> send(port, {:answer, id, parted(fun.(), port, id, credit)}) end)

    running = %{pid: pid, monitor: monitor, since: System.monotonic_time(:microsecond)}

    count(
      %{
        state
        | running: Map.put(state.running, id, running),
          by_monitor: Map.put(state.by_monitor, monitor, id)
      },
      "submitted"
    )
  end

  # All parts but the last are sent as they may be.
  defp parted({:parts, parts}, port, id, credit) do
    {before, [last]} = Enum.split(parts, -1)
    if credit, do: Enum.reduce(before, credit, &send_part(&1, &2, port, id))
    {:ok, last}
  end

  defp parted(outcome, _port, _id, _credit), do: outcome

  defp send_part(part, 0, port, id) do
    receive do
      {:grant, n} -> send_part(part, n, port, id)
    end
  end

  defp send_part(part, credit, port, id) do
    send(port, {:answer, id, {:part, part}})
    credit - 1
  end

  defp outcome(answer, request) do
    answer =
      cond do
        is_function(answer, 2) -> answer.(request.inputs, Map.delete(request, :inputs))
        is_function(answer, 1) -> answer.(request.inputs)
        true -> answer
      end

    case answer do
      {:parts, [_ | _] = parts} -> {:parts, Enum.map(parts, &tensors/1)}
      {:error, reason} -> {:error, reason, nil}
      {:error, reason, message} -> {:error, reason, message}
      {:ok, outputs} -> {:ok, tensors(outputs)}
      outputs -> {:ok, tensors(outputs)}
    end
  rescue
    error -> {:error, :engine_failed, Exception.message(error)}
  end

  defp answered(state, id, {:part, outputs}) do
    if is_map_key(state.running, id), do: part(state, id, outputs), else: state
  end

  defp answered(state, {:job, job}, outcome) do
    if is_map_key(state.jobs, job), do: end_job(state, job, outcome), else: state
  end

  defp answered(state, id, outcome) do
    case state.running do
      %{^id => running} -> state |> forget(id) |> finish(id, outcome, running) |> drained()
      _ -> state
    end
  end

  defp finish(state, id, {:ok, outputs}, running) do
    took = System.monotonic_time(:microsecond) - running.since

    state
    |> count("completed")
    |> count("batches")
    |> count("batched_requests")
    |> reply(id, %{
      "outputs" => outputs,
      "device" => hd(state.config.devices),
      "batch" => 1,
      "queue_us" => 0,
      "compute_us" => took,
      "attempts" => 1
    })
  end

  defp finish(state, id, {:error, reason, message}, _running) do
    if Error.wire?(reason),
      do: state |> count("failed") |> refuse(id, reason, message, retry(reason)),
      else: refuse(state, id, :engine_failed, "#{inspect(reason)} is no reason of GpuSched.Error")
  end

  # It ended without an answer: what else can be told?
  defp down(state, monitor, reason) do
    case state.by_monitor do
      %{^monitor => {:job, job}} ->
        if is_map_key(state.jobs, job),
          do: end_job(state, job, {:error, :engine_failed, Exception.format_exit(reason)}),
          else: state

      %{^monitor => id} ->
        message = Exception.format_exit(reason)
        state |> forget(id) |> count("failed") |> refuse(id, :engine_failed, message) |> drained()

      _ ->
        state
    end
  end

  defp forget(state, id) do
    {%{pid: pid, monitor: monitor}, running} = Map.pop(state.running, id)
    Process.demonitor(monitor, [:flush])
    Process.exit(pid, :kill)
    %{state | running: running, by_monitor: Map.delete(state.by_monitor, monitor)}
  end

  defp count(state, key),
    do: %{state | counters: Map.update(state.counters, key, 1, &(&1 + 1))}

  defp drained(%{draining: [_ | _] = ids, running: running} = state)
       when map_size(running) == 0 do
    Enum.each(ids, &reply(state, &1, nil))
    %{state | draining: []}
  end

  defp drained(state), do: state

  # ---- tensors

  defp tensors(outputs) when is_map(outputs),
    do:
      Map.new(outputs, fn {name, value} -> {to_string(name), tensor(Tensor.plain(value, []))} end)

  defp tensors(other) do
    raise ArgumentError,
          "a model of GpuSched.Test answers a map of outputs; got #{inspect(other, limit: 5)}"
  end

  defp tensor(%{"datatype" => _, "shape" => _, "data" => _} = tensor), do: tensor

  defp tensor(%{datatype: datatype, shape: shape, data: data}),
    do: %{"datatype" => datatype, "shape" => shape, "data" => data}

  defp tensor(value) do
    values = value |> List.wrap() |> List.flatten()
    {datatype, data} = dense(values)
    %{"datatype" => datatype, "shape" => shape(value), "data" => data}
  end

  defp shape([first | _] = list), do: [length(list) | shape(first)]
  defp shape([]), do: [0]
  defp shape(_value), do: []

  defp dense(values) do
    cond do
      Enum.all?(values, &is_integer/1) ->
        {"INT64", for(n <- values, into: <<>>, do: <<n::little-64>>)}

      Enum.all?(values, &is_number/1) ->
        {"FP32", for(x <- values, into: <<>>, do: <<x * 1.0::float-little-32>>)}

      Enum.all?(values, &is_binary/1) ->
        {"BYTES", values}

      Enum.all?(values, &is_boolean/1) ->
        {"BOOL", for(b <- values, into: <<>>, do: if(b, do: <<1>>, else: <<0>>))}

      true ->
        raise ArgumentError, "an output is of numbers, of strings or of booleans"
    end
  end

  # ---- jobs

  defp submit(state, id, %{"program" => program} = params) do
    case :ets.lookup(state.table, {:job, program}) do
      [] ->
        refuse(
          state,
          id,
          :invalid_argument,
          "GpuSched.Test has no job #{program}: say what it does with jobs:"
        )

      [{_key, fun}] ->
        with {:ok, state, job} <- begin_job(state, id, params, program) do
          port = self()
          parameters = params["parameters"] || %{}

          {pid, monitor} =
            spawn_monitor(fn ->
              progress = fn done, total -> send(port, {:progress, job, done, total}) end
              send(port, {:answer, {:job, job}, job_outcome(fun, parameters, progress)})
            end)

          state = put_in(state.jobs[job][:pid], pid)

          %{
            state
            | by_monitor: Map.put(state.by_monitor, monitor, {:job, job}),
              running: Map.put(state.running, {:job, job}, %{pid: pid, monitor: monitor})
          }
        end
    end
  end

  defp reserve(state, id, params) do
    with {:ok, state, _job} <- begin_job(state, id, params, nil), do: state
  end

  # Answers the state alone where there are not enough devices.
  defp begin_job(state, id, params, program) do
    wanted = params["devices"] || 1
    devices = Enum.take(state.config.devices, wanted)

    if length(devices) < wanted do
      have = length(state.config.devices)
      refuse(state, id, :no_device, "it asks for #{wanted} devices, and there are #{have}")
    else
      job = state.last_job + 1
      name = params["name"] || program || "reservation"

      row =
        %{
          "job" => job,
          "name" => name,
          "state" => "running",
          "client" => params["client"] || "",
          "n_devices" => wanted,
          "devices" => devices,
          "why" => ""
        }
        |> Map.merge(if(program, do: %{"program" => program}, else: %{}))

      state = %{state | last_job: job, jobs: Map.put(state.jobs, job, %{row: row, pid: nil})}
      state = state |> reply(id, %{"job" => job}) |> tell_job(row)
      {:ok, state, job}
    end
  end

  defp tell_job(state, row, more \\ %{}) do
    event = Map.take(row, ~w(job name state done total message devices))
    tell(state, event |> Map.merge(%{"event" => "job"}) |> Map.merge(more))
  end

  defp job_outcome(fun, parameters, progress) do
    result = if is_function(fun, 2), do: fun.(parameters, progress), else: fun.(parameters)

    case result do
      {:error, reason} ->
        {:error, reason, nil}

      {:error, reason, message} ->
        {:error, reason, message}

      {:ok, %{} = result} ->
        {:ok, result}

      %{} = result ->
        {:ok, result}

      other ->
        {:error, :engine_failed,
         "a job of GpuSched.Test answers a map; got #{inspect(other, limit: 5)}"}
    end
  rescue
    error -> {:error, :engine_failed, Exception.message(error)}
  end

  defp progress(state, job, done, total) do
    case state.jobs do
      %{^job => info} ->
        row = Map.merge(info.row, %{"done" => done, "total" => total})
        put_in(state.jobs[job].row, row) |> tell_job(row)

      _ ->
        state
    end
  end

  defp job_call(state, "job", id, _job, info), do: reply(state, id, info.row)

  defp job_call(state, "release", id, _job, %{row: %{"program" => _}}),
    do: refuse(state, id, :invalid_argument, "it runs a program: cancel it instead")

  defp job_call(state, "release", id, job, _info),
    do: state |> reply(id, nil) |> end_job(job, {:ok, %{}})

  defp job_call(state, "cancel_job", id, job, _info),
    do: state |> reply(id, nil) |> end_job(job, {:error, :cancelled, nil})

  defp end_job(state, job, outcome) do
    {%{row: row, pid: pid}, jobs} = Map.pop!(state.jobs, job)
    state = if pid, do: forget(state, {:job, job}), else: state
    state = %{state | jobs: jobs}

    {status, result} =
      case outcome do
        {:ok, result} -> {nil, Map.new(result, fn {k, v} -> {to_string(k), v} end)}
        {:error, reason, message} -> {Error.to_wire(reason, message, nil), %{}}
      end

    row = Map.put(row, "state", "ended")
    tell_job(state, row, %{"status" => status, "result" => result})
  end

  # ---- what there is

  defp names(state), do: for([name] <- :ets.match(state.table, {{:model, :"$1"}, :_}), do: name)
  defp known?(state, name), do: :ets.member(state.table, {:model, name})
  defp models(state), do: Enum.map(names(state), &model/1)

  defp model(name) do
    Map.merge(@zero, %{
      "name" => name,
      "state" => "ready",
      "engine" => "test",
      "text" => "a function of a test",
      "inputs" => [],
      "outputs" => [],
      "devices" => [],
      "max_batch_requests" => 1,
      "max_batch_units" => 1,
      "max_request_units" => 1,
      "queue_limit" => 1_000
    })
  end

  defp devices(state) do
    for name <- state.config.devices do
      %{
        "name" => name,
        "kind" => "cpu",
        "model" => "a test",
        "usable" => true,
        "reason" => "",
        "state" => "up",
        "numa_node" => -1,
        "cpus" => "",
        "cores" => 1,
        "memory_bytes" => 0,
        "pid" => 0,
        "restarts" => 0,
        "busy_us" => 0,
        "batches" => 0
      }
    end
  end

  defp stats(state) do
    counters = Map.merge(@zero, state.counters)
    counters = Map.put(counters, "running", map_size(state.running))

    %{
      "uptime_us" => 0,
      "arena_bytes" => 0,
      "arena_used" => 0,
      "worker_deaths" => 0,
      "requests" => counters,
      "models" => Map.new(names(state), &{&1, @zero}),
      "devices" =>
        Map.new(state.config.devices, &{&1, %{"batches" => 0, "busy_us" => 0, "restarts" => 0}}),
      "port" => %{"bad_frames" => 0, "bytes_in" => 0, "bytes_out" => 0}
    }
  end
end
