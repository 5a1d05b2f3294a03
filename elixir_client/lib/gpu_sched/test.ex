# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Test do
  @moduledoc """
  A scheduler for an application's own tests: without `sched-port`, without a model, without a GPU.

  Whoever it is started for calls `GpuSched` as ever. What is tested is real but for the last step: the
  options, the encoding, credit, deadlines, cancellation, the ownership of requests and jobs are the
  library's own, and where `sched-port` would be there is a process that calls functions of yours.

      defmodule MyApp.SearchTest do
        use ExUnit.Case, async: true

        test "finds what is similar" do
          start_supervised!(
            {GpuSched.Test,
             name: MyApp.Gpu,
             models: %{
               "minilm" => fn %{"text" => texts} ->
                 %{"embedding" => for(text <- texts, do: [String.length(text) * 1.0])}
               end
             }}
          )

          assert MyApp.Search.nearest("cat", ["dog", "elephant"]) == "dog"
          assert [%{model: "minilm"}] = GpuSched.Test.requests(MyApp.Gpu)
        end

        test "says so when there is too much to do" do
          start_supervised!({GpuSched.Test, name: MyApp.Gpu, models: %{"minilm" => :queue_full}})
          assert {:error, :try_later} = MyApp.Search.nearest("cat", ["dog"])
        end
      end

  In an application's own supervision tree, let the child come from its configuration, and say
  `{GpuSched.Test, …}` there for tests.

  ## Models

  `:models` is a map from names to what answers. That is

    * a function of the inputs, or of the inputs and the request (a map with `:parameters`, `:client` and
      `:priority`). The inputs have string keys, and are as they were sent: lists as lists, tensors
      as maps with `"datatype"`, `"shape"` and `"data"`. It runs in a process of its own for each request,
      so one that waits is a model that takes its time; when the request is cancelled it is killed. It
      answers
        * a map of outputs: name → tensor, or nested list (integers become `INT64`, other numbers
          `FP32`, strings `BYTES`, booleans `BOOL`);
        * `{:parts, [outputs]}`, of which the last is the result;
        * `{:error, reason}` or `{:error, reason, message}`, with a reason of `GpuSched.Error`;
        * and where it raises, that is `:engine_failed`;
    * a map: the outputs, always;
    * an atom: a reason of `GpuSched.Error`, always.

  `stub/3` changes one later.

  ## Jobs

  `:jobs` is a map from names of programs to a function of the parameters, or of the parameters and a
  function that tells progress. It answers the result, a map, or `{:error, reason}`.

      jobs: %{"train" => fn parameters, progress ->
        progress.(1, 2)
        %{"loss" => 0.5}
      end}

  ## Other options

  `:name`, and `:client`, `:restart_backoff`, `:max_waiting`, `:kept_jobs` as of `GpuSched.start_link/1`;
  `:credit`, how many requests may be in flight (1000); `:devices`, their names (`["test:0"]`).
  """
  use Supervisor

  @of_scheduler [:client, :restart_backoff, :max_waiting, :kept_jobs, :watchdog]
  @mine [:name, :models, :jobs, :credit, :devices]

  @doc "Starts one and links it to the caller; usually with `start_supervised!/1`."
  @spec start_link(keyword) :: Supervisor.on_start()
  def start_link(opts) do
    for {key, _value} <- opts,
        key not in (@mine ++ @of_scheduler),
        do: GpuSched.Options.unknown!(key, @mine ++ @of_scheduler)

    for {name, answer} <- opts[:models] || %{}, do: check_model!(name, answer)
    for {name, fun} <- opts[:jobs] || %{}, do: check_job!(name, fun)
    Supervisor.start_link(__MODULE__, opts)
  end

  defp check_model!(name, answer)
       when is_binary(name) and
              (is_function(answer, 1) or is_function(answer, 2) or is_map(answer)),
       do: :ok

  defp check_model!(name, reason) when is_binary(name) and is_atom(reason) do
    unless GpuSched.Error.wire?(reason),
      do: raise(ArgumentError, "#{inspect(reason)} is no reason of GpuSched.Error")
  end

  defp check_model!(name, answer) do
    raise ArgumentError,
          "a model is a name and a function of one or two arguments, a map of outputs or a reason; " <>
            "got #{inspect({name, answer}, limit: 5)}"
  end

  defp check_job!(name, fun)
       when is_binary(name) and (is_function(fun, 1) or is_function(fun, 2)),
       do: :ok

  defp check_job!(name, fun) do
    raise ArgumentError,
          "a job is a name and a function of one or two arguments; got #{inspect({name, fun}, limit: 5)}"
  end

  @impl true
  def init(opts) do
    # It outlives the process that plays the port, which may be made to die.
    table = :ets.new(__MODULE__, [:public, :ordered_set])
    models = opts[:models] || %{}
    for {name, answer} <- models, do: :ets.insert(table, {{:model, name}, answer})
    for {name, fun} <- opts[:jobs] || %{}, do: :ets.insert(table, {{:job, name}, fun})

    config = %{
      table: table,
      credit: opts[:credit] || 1_000,
      devices: opts[:devices] || ["test:0"]
    }

    scheduler =
      [
        name: opts[:name],
        port_path: {GpuSched.Test.Port, config},
        restart_backoff: {1, 10},
        shutdown: 1_000
      ] ++ Keyword.take(opts, @of_scheduler)

    # The first of two that are the same would count.
    scheduler = Keyword.new(scheduler)
    Supervisor.init([{GpuSched, scheduler}], strategy: :one_for_one)
  end

  @doc """
  What a model answers from now on.
  """
  @spec stub(GpuSched.server(), String.t(), (map -> term) | (map, map -> term) | map | atom) ::
          :ok
  def stub(server, model, answer) do
    check_model!(model, answer)
    :ets.insert(table(server), {{:model, model}, answer})
    :ok
  end

  @doc """
  The requests that came so far, in their order: maps with `:model`, `:inputs`, `:parameters`, `:client` and
  `:priority`.
  """
  @spec requests(GpuSched.server()) :: [map]
  def requests(server) do
    for [request] <- :ets.match(table(server), {{:request, :_}, :"$1"}), do: request
  end

  @doc """
  Has something happen to the scheduler: `:model`, `:device` or `:overload` with the fields that
  `GpuSched.subscribe/2` tells of.

      GpuSched.Test.happen(MyApp.Gpu, :device, name: "gpu:0", state: "down", reason: "it fell off the bus")
  """
  @spec happen(GpuSched.server(), :model | :device | :overload, map | keyword) :: :ok
  def happen(server, kind, fields) when kind in [:model, :device, :overload] do
    event =
      fields |> Map.new(fn {k, v} -> {to_string(k), v} end) |> Map.put("event", to_string(kind))

    send(port(server), {:happen, event})
    :ok
  end

  @doc """
  Ends what stands for `sched-port`, as a crash of that would. It is started again; requests in flight
  are sent again, and jobs are lost.
  """
  @spec crash(GpuSched.server()) :: :ok
  def crash(server) do
    pid = port(server)
    monitor = Process.monitor(pid)
    Process.exit(pid, :kill)

    receive do
      {:DOWN, ^monitor, :process, _pid, _reason} -> :ok
    end
  end

  defp port(server) do
    case state(server) do
      %{port: pid} when is_pid(pid) -> pid
      _ -> raise ArgumentError, "#{inspect(server)} is between two crashes"
    end
  end

  defp table(server) do
    {GpuSched.Test.Port, %{table: table}} = state(server).opts.port_path
    table
  end

  defp state(server) do
    state = :sys.get_state(server)

    unless match?(%{opts: %{port_path: {GpuSched.Test.Port, _config}}}, state),
      do: raise(ArgumentError, "#{inspect(server)} was not started by GpuSched.Test")

    state
  end
end
