# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched do
  @moduledoc """
  Batched inference on the devices of one machine, from every BEAM node in reach.

  A `GpuSched` process starts `sched-port`, a scheduler written in C that queues and batches
  everybody's requests and computes them in one worker process for each device. Callers talk to it
  like to any server:

    * `infer/4` waits for one result, `async/4` comes back for it later;
    * `infer_many/4` runs a stream of requests with bounded concurrency;
    * `stream/4` yields the parts of one request as they are computed;
    * plain terms go in and come out, so a node that has **none of our code** can call through
      `:erpc` (see below);
    * `timeout:` is both how long you wait and the deadline the scheduler works by. What expires is
      cancelled and leaves no late message behind;
    * a request belongs to its caller: if that dies, or its node goes away, it is cancelled;
    * what does not fit is refused at once with `:overloaded` and the time after which to come
      back, or waits (`overload: :wait`);
    * `sched-port` may die: it is restarted, its models are loaded again, and what was in flight is
      sent again. The supervision tree does not notice.

  ## Starting a scheduler

      children = [
        {GpuSched,
         name: MyApp.Gpu,
         models: [
           [name: "minilm", path: "/models/all-MiniLM-L6-v2"],
           [name: "noop", engine: "synthetic"]
         ],
         port_options: [cpu_devices: 2]}
      ]

      Supervisor.start_link(children, strategy: :one_for_one)

  It needs the program `sched-port`; `mix gpu_sched.build` makes it, where there are CMake and a C
  compiler. Without them the library works as a client of a scheduler on another node.

  ## A first request

      iex> {:ok, model} = GpuSched.await_ready(MyApp.Gpu, "minilm")
      iex> model["state"]
      "ready"
      iex> {:ok, result} = GpuSched.infer(MyApp.Gpu, "minilm", %{"text" => ["hello", "world"]})
      iex> %{"datatype" => "FP32", "shape" => [2, 384], "data" => data} = result["outputs"]["embedding"]
      iex> byte_size(data)
      3072
      iex> {:error, error} = GpuSched.infer(MyApp.Gpu, "minilm", %{"txet" => ["hello"]})
      iex> error.reason
      :invalid_argument

  ## The server

  The first argument of every function names the scheduler: the `:name` it was started with, its
  pid, or `{name, node}` for one on another node. The last needs this library on both nodes.

  ## From a node that has none of our code

      arguments = [MyApp.Gpu, "minilm", %{"text" => ["hello"]}]
      {:ok, result} = :erpc.call(:"gpu@10.0.0.2", GpuSched, :infer, arguments)

  The answer holds nothing but maps, lists, binaries and numbers. An error is a `GpuSched.Error`,
  which arrives there as a map: `error.reason` and `error.message` can be read. A result in parts
  is watched with `stream_to/5`.

  ## Tensors

  The inputs of a model are a map from names (strings or atoms) to tensors, each of which is

    * `%{"datatype" => "FP32", "shape" => [2, 3], "data" => binary}`: little-endian, row-major;
    * a nested list of numbers, booleans or strings, or a single one of them. The model's
      description decides the datatype;
    * an `Nx.Tensor`, where the application has Nx.

  A tensor of a megabyte or more does not go through the pipe to `sched-port` (the limit is the
  port's): the calling process writes it into shared memory.

  The outputs are, as `output:` says,

    * `:binary` (the default) - `%{"datatype" => …, "shape" => …, "data" => binary}`, where the data
      of a `BYTES` tensor is a list of binaries;
    * `:list` - nested lists of numbers (`:nan`, `:infinity` and `:neg_infinity` where a number is
      none), booleans or binaries;
    * `:nx` - an `Nx.Tensor`, where the application has Nx.

  A result is a map:

  | key | |
  |---|---|
  | `"outputs"` | name → tensor |
  | `"device"` | where it ran: `"gpu:0"` |
  | `"batch"` | how many requests were in its (last) batch |
  | `"queue_us"`, `"compute_us"` | how long it waited, and was in its batch |
  | `"attempts"` | 1, or more where a worker died under it |

  ## Options of a request

  For `infer/4`, `async/4`, `stream/4`, `infer_many/4` and `stream_to/5`:

    * `:timeout` - milliseconds, or `:infinity`; 5000 unless given. How long to wait, and the
      deadline: past it the request is cancelled, and the error is `:deadline_exceeded`;
    * `:output` - `:binary`, `:list` or `:nx`, as above;
    * `:priority` - 0 (the default, the most urgent) to 7;
    * `:parameters` - a map or keyword list for the model: booleans, numbers and strings;
    * `:client` - whose share of the devices it counts to, at most 63 bytes; unless given, the
      name of the node that the owner of the request is on;
    * `:overload` - what to do where the credit of the scheduler is used up: `:error` (the default)
      answers `:overloaded` with `retry_after_ms` at once, `:wait` waits within the timeout;
    * `:unavailable` - what to do while `sched-port` is being restarted: `:error` answers
      `:unavailable` at once, `:wait` waits within the timeout. Unless given, the same as
      `:overload`.

  An option that is unknown or has a wrong value raises an `ArgumentError`: it is a mistake in the
  program. Everything that can happen to a request is answered as `{:error, %GpuSched.Error{}}`.

  ## Telemetry

  Where the application has `:telemetry`, the events of `GpuSched.Telemetry` are emitted.
  """

  alias GpuSched.{Admin, Async, Error, Local, Many, Options, Remote, Request, Resolve, Server}

  @typedoc "A scheduler: its name, its pid, or `{name, node}`."
  @type server :: GenServer.server()

  @typedoc "The name of a model."
  @type model :: String.t()

  @typedoc "A tensor, as the section Tensors has it."
  @type tensor :: map | list | number | boolean | String.t() | struct

  @type inputs :: %{optional(String.t() | atom) => tensor}

  @typedoc "A map with string keys; the section Tensors lists them."
  @type result :: %{String.t() => term}

  @type infer_option ::
          {:timeout, timeout}
          | {:output, :binary | :list | :nx}
          | {:priority, 0..7}
          | {:parameters, map | keyword}
          | {:client, String.t()}
          | {:overload, :error | :wait}
          | {:unavailable, :error | :wait}

  @doc """
  Starts a scheduler and links it to the caller; usually called by a supervisor.

  Returns once `sched-port` is up and has said what it can do; models are loaded in the background
  (`await_ready/3` waits for them). Answers `{:error, {:already_started, pid}}` where the name is
  taken, and `{:error, %GpuSched.Error{}}` where `sched-port` is not found or does not start.

  Options:

    * `:name` - what the process is registered as (anything that `GenServer` takes);
    * `:models` - a list of models to load, each a keyword list or map with `:name` and the options
      of `load/3`. They are loaded again whenever `sched-port` is restarted;
    * `:port_path` - the program `sched-port`. Unless given it is looked for in
      `config :gpu_sched, :port_path`, the environment variable `GPU_SCHED_PORT`, `priv/` of this
      library (where `mix gpu_sched.build` puts it), and `PATH`;
    * `:port_options` - a keyword list for `sched-port`, whose `--help` lists them:
      `[cpu_devices: 2, spin_us: 100]` becomes `--cpu-devices=2 --spin-us=100`, and a `true` makes
      the bare option;
    * `:port_env` - environment variables of `sched-port`, as `[{"NAME", "value"}]`;
    * `:start_timeout` - how long `sched-port` may take to come up, in ms; 30 000;
    * `:shutdown` - how long the end may take, in ms; 10 000. New requests are refused, those in
      flight are waited for until a second before that, then `sched-port` is closed and its end
      is waited for;
    * `:restart_backoff` - `{min, max}` in ms between restarts of `sched-port`, doubling from one
      to the other; `{100, 5000}`;
    * `:watchdog` - after how many ms in which `sched-port` has not answered at all it is killed and
      restarted; 30 000, or `:infinity`;
    * `:max_waiting` - how many callers may wait for credit (`overload: :wait`); 65 536;
    * `:relay_bytes` - how much may wait to be sent to one other node by `stream_to/5`; 64 MiB.
  """
  @spec start_link(keyword) :: GenServer.on_start()
  def start_link(opts) when is_list(opts), do: Server.start_link(Options.start!(opts))

  @doc """
  A child specification, for a supervisor. Takes the options of `start_link/1`, and `:id`.
  """
  @spec child_spec(keyword) :: Supervisor.child_spec()
  def child_spec(opts) when is_list(opts) do
    {id, opts} = Keyword.pop(opts, :id, Keyword.get(opts, :name, __MODULE__))

    %{
      id: id,
      start: {__MODULE__, :start_link, [opts]},
      type: :worker,
      shutdown: Keyword.get(opts, :shutdown, Options.default_shutdown())
    }
  end

  @doc """
  Runs one request and waits for its result.

      iex> inputs = %{"text" => ["hello"]}
      iex> {:ok, result} = GpuSched.infer(MyApp.Gpu, "minilm", inputs, output: :list, timeout: 10_000)
      iex> [vector] = result["outputs"]["embedding"]
      iex> length(vector)
      384

  The options are those of the section "Options of a request" above.
  """
  @spec infer(server, model, inputs, [infer_option]) :: {:ok, result} | {:error, Error.t()}
  def infer(server, model, inputs, opts \\ []) do
    opts = Options.infer!(opts)

    case Resolve.server(server) do
      {:local, ctx} -> Local.infer(ctx, model, inputs, opts)
      {:remote, node, name} -> Remote.infer(node, name, model, inputs, opts)
      {:error, error} -> {:error, error}
    end
  end

  @doc """
  As `infer/4`, but answers the result itself and raises the error.

      iex> GpuSched.infer!(MyApp.Gpu, "minilm", %{"text" => ["hello"]})["attempts"]
      1
  """
  @spec infer!(server, model, inputs, [infer_option]) :: result
  def infer!(server, model, inputs, opts \\ []) do
    case infer(server, model, inputs, opts) do
      {:ok, result} -> result
      {:error, error} -> raise error
    end
  end

  @doc """
  Begins a request and answers a `GpuSched.Request` to come back to with `await/2`, `yield/2` or
  `cancel/1`.

      iex> request = GpuSched.async(MyApp.Gpu, "minilm", %{"text" => ["hello"]})
      iex> {:ok, result} = GpuSched.await(request)
      iex> result["outputs"]["embedding"]["shape"]
      [1, 384]

  As with a `Task`, the caller gets the message `{request.ref, result}`, `result` being what
  `infer/4` would answer, unless it takes it with one of these functions: a `GenServer` may just
  handle it. There is always exactly one such message, at the latest when `timeout:` has passed;
  after `cancel/1` there is none.

  The request belongs to the calling process; if that dies, it is cancelled. From a process that
  ends at once, as that of a bare `:erpc.call/4` does, use `stream_to/5`.
  """
  @spec async(server, model, inputs, [infer_option]) :: Request.t()
  def async(server, model, inputs, opts \\ []),
    do: Async.start(server, model, inputs, Options.infer!(opts))

  @doc """
  Waits for a request begun with `async/4`.

  A request that is not done within `timeout` is cancelled, and the error is `:deadline_exceeded`;
  its own `timeout:` holds as well, and is the only limit unless another is given. Raises an
  `ArgumentError` in a process that did not begin it.
  """
  @spec await(Request.t(), timeout) :: {:ok, result} | {:error, Error.t()}
  def await(%Request{} = request, timeout \\ :infinity), do: Async.await(request, timeout)

  @doc """
  Waits at most `timeout` ms for a request begun with `async/4`; `nil` where it is not done yet. It
  goes on then, and may be asked for again.
  """
  @spec yield(Request.t(), timeout) :: {:ok, result} | {:error, Error.t()} | nil
  def yield(%Request{} = request, timeout \\ 5_000), do: Async.yield(request, timeout)

  @doc """
  Waits for many requests, at most `timeout` ms altogether; the results are in the order of the
  requests. Those that are not done in time are cancelled, with the error `:deadline_exceeded`.
  """
  @spec await_many([Request.t()], timeout) :: [{:ok, result} | {:error, Error.t()}]
  def await_many(requests, timeout \\ :infinity) when is_list(requests),
    do: Async.await_many(requests, timeout)

  @doc """
  Cancels a request begun with `async/4`. No message of it arrives any more; one that had arrived
  already is taken out of the mailbox.
  """
  @spec cancel(Request.t()) :: :ok
  def cancel(%Request{} = request), do: Async.cancel(request)

  @doc """
  Cancels a request begun with `stream_to/5`, by the reference that answered. Its receiver gets
  the error `:cancelled`, unless it was done already.
  """
  @spec cancel(server, reference) :: :ok
  def cancel(server, ref) when is_reference(ref) do
    case Resolve.server(server) do
      {:local, ctx} -> Server.cancel_stream(ctx, ref)
      {:remote, node, name} -> Remote.cast(node, :cancel, [name, ref])
      {:error, _error} -> :ok
    end
  end

  @doc """
  The parts of one request, as a lazy enumerable.

      MyApp.Gpu
      |> GpuSched.stream("story", %{"text" => "Once"}, timeout: 60_000)
      |> Enum.each(fn part -> IO.write(part["outputs"]["token"]["data"]) end)

      iex> inputs = %{"data" => [1, 2, 3]}
      iex> parts = GpuSched.stream(MyApp.Gpu, "noop", inputs, parameters: %{"parts" => 4}, output: :list)
      iex> Enum.map(parts, & &1["outputs"]["part"])
      [[1], [2], [3], [4]]

  Each element is a map with `"outputs"`, like a result. A model that does not work in parts gives
  one element. Nothing is sent before the enumeration begins, and each enumeration is a request of
  its own. An error is raised as `GpuSched.Error`. Whoever halts the enumeration cancels the
  request.

  Beside the options of a request:

    * `:credit` - how many parts may be under way before the consumer has taken them; 16. A slow
      consumer holds its own request back and nobody else's.

  `timeout:` is for the whole.
  """
  @spec stream(server, model, inputs, [infer_option | {:credit, pos_integer}]) :: Enumerable.t()
  def stream(server, model, inputs, opts \\ []),
    do: GpuSched.Stream.new(server, model, inputs, Options.stream!(opts))

  @doc """
  Runs one request for each element of `enumerable`, lazily and with bounded concurrency.

      iex> inputs = Stream.map(["first", "second", "third"], &%{"text" => [&1]})
      iex> results = GpuSched.infer_many(MyApp.Gpu, "minilm", inputs, output: :list)
      iex> vectors = Enum.map(results, fn {:ok, result} -> hd(result["outputs"]["embedding"]) end)
      iex> Enum.map(vectors, &length/1)
      [384, 384, 384]

  Yields `{:ok, result}` or `{:error, error}` for each; one that fails does not end the others. If
  the enumeration is halted, what is in flight is cancelled.

  Beside the options of a request, of which `:overload` is `:wait` here unless given and `:timeout`
  is for each request:

    * `:max_concurrency` - how many requests are in flight at once; 256;
    * `:ordered` - whether the results come in the order of the inputs; `true`. With `false` each
      comes as soon as it is there, beside the place of its input, counted from 0:
      `{index, {:ok, result}}`.
  """
  @spec infer_many(server, model, Enumerable.t(), [
          infer_option | {:max_concurrency, pos_integer} | {:ordered, boolean}
        ]) :: Enumerable.t()
  def infer_many(server, model, enumerable, opts \\ []),
    do: Many.new(server, model, enumerable, Options.many!(opts))

  @doc """
  Runs one request and sends its parts and its end to `pid`, which may be on any node and needs
  none of our code there.

      {:ok, ref} = :erpc.call(host, GpuSched, :stream_to, [MyApp.Gpu, "story", inputs, self(), [credit: 4]])

      receive do
        {^ref, {:part, part}} -> …      # then let one more come:
          :erpc.cast(host, GpuSched, :grant, [MyApp.Gpu, ref, 1])
        {^ref, {:done, result}} -> …
        {^ref, {:error, error}} -> …
      end

  Exactly one `:done` or `:error` comes, after the parts. The request belongs to `pid`: if it dies
  or its node goes away, the request is cancelled. At most `:credit` parts (16 unless given) are
  sent before `grant/3` allows more. The options are those of a request; `output: :nx` is not one
  of them.
  """
  @spec stream_to(server, model, inputs, pid, [infer_option | {:credit, pos_integer}]) ::
          {:ok, reference} | {:error, Error.t()}
  def stream_to(server, model, inputs, pid, opts \\ []) when is_pid(pid) do
    opts = Options.stream_to!(opts)

    case Resolve.server(server) do
      {:local, ctx} -> Local.stream_to(ctx, model, inputs, pid, opts)
      {:remote, node, name} -> Remote.stream_to(node, name, model, inputs, pid, opts)
      {:error, error} -> {:error, error}
    end
  end

  @doc """
  Lets `n` more parts of a request begun with `stream_to/5` come.
  """
  @spec grant(server, reference, pos_integer) :: :ok
  def grant(server, ref, n \\ 1) when is_reference(ref) and is_integer(n) and n > 0 do
    case Resolve.server(server) do
      {:local, ctx} -> Server.grant_stream(ctx, ref, n)
      {:remote, node, name} -> Remote.cast(node, :grant, [name, ref, n])
      {:error, _error} -> :ok
    end
  end

  @doc """
  The models that are loaded, loading or failed: a list of maps with `"name"`, `"state"`,
  `"inputs"`, `"outputs"`, limits and counters, as `docs/protocol.md` has them.
  """
  @spec models(server, [{:timeout, timeout}]) :: {:ok, [map]} | {:error, Error.t()}
  def models(server, opts \\ []), do: Admin.call(server, :models, [], opts)

  @doc """
  The devices of the machine: a list of maps with `"name"`, `"kind"`, `"usable"` (and `"reason"`,
  where it is not), `"state"`, `"numa_node"`, `"memory_bytes"` and more.
  """
  @spec devices(server, [{:timeout, timeout}]) :: {:ok, [map]} | {:error, Error.t()}
  def devices(server, opts \\ []), do: Admin.call(server, :devices, [], opts)

  @doc """
  Counters of the scheduler as a whole, of each model and each device, and of the port.

      iex> {:ok, stats} = GpuSched.stats(MyApp.Gpu)
      iex> stats["models"]["noop"]["failed"]
      0
  """
  @spec stats(server, [{:timeout, timeout}]) :: {:ok, map} | {:error, Error.t()}
  def stats(server, opts \\ []), do: Admin.call(server, :stats, [], opts)

  @doc """
  Loads a model and waits until it is ready.

      GpuSched.load(MyApp.Gpu, "bge", path: "/models/bge-small-en", max_batch_requests: 32)

  Options: `:path` (a folder with a `gpu_sched.json`, or in Hugging Face layout), `:engine`,
  `:library` (a plugin), `:parameters` (a map or keyword list for the engine), `:devices` (names of
  those to use), `:max_batch_requests`, `:max_batch_units`, `:max_request_units`, `:queue_limit`;
  and `:timeout`, 60 000 ms unless given, after which the load goes on unattended. A model loaded
  so is loaded again when `sched-port` is restarted, until it is unloaded.
  """
  @spec load(server, model, keyword) :: {:ok, map} | {:error, Error.t()}
  def load(server, model, opts \\ []) when is_binary(model),
    do: Admin.call(server, :load, [model], opts)

  @doc """
  Unloads a model: its waiting requests end with `:unknown_model`, running ones run to their end.

      iex> {:ok, model} = GpuSched.load(MyApp.Gpu, "idle", engine: "synthetic")
      iex> model["state"]
      "ready"
      iex> GpuSched.unload(MyApp.Gpu, "idle")
      :ok
  """
  @spec unload(server, model, [{:timeout, timeout}]) :: :ok | {:error, Error.t()}
  def unload(server, model, opts \\ []) when is_binary(model),
    do: Admin.call(server, :unload, [model], opts)

  @doc """
  Waits until a model is ready and answers its description; or, with `:all`, until every model of
  `models/1` is, and answers theirs. The error is the reason where one has failed. `:timeout` is 60 000 ms
  unless given.
  """
  @spec await_ready(server, model | :all, [{:timeout, timeout}]) ::
          {:ok, map | [map]} | {:error, Error.t()}
  def await_ready(server, model \\ :all, opts \\ []) when is_binary(model) or model == :all,
    do: Admin.call(server, :await_ready, [model], opts)
end
