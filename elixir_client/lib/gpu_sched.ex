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
           [name: "ticker", engine: "synthetic", parameters: [stream: true]]
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
      iex> %{"datatype" => "FP32", "shape" => shape, "data" => data} = result["outputs"]["embedding"]
      iex> {shape, byte_size(data)}
      {[2, 384], 2 * 384 * 4}

  What does not work answers an error to match on:

      iex> {:error, error} = GpuSched.infer(MyApp.Gpu, "minilm", %{"txet" => ["hello"]})
      iex> {error.reason, error.scope}
      {:invalid_argument, :request}

  ## The server

  The first argument of every function names the scheduler: the `:name` it was started with, its
  pid, or `{name, node}` for one on another node. The last needs this library on both nodes.

  `:any` is whichever host of the cluster answers first, as far as can be foreseen: see
  `GpuSched.Cluster`.

  ## From a node that has none of our code

      iex> host = node() # on a laptop: :"gpu@10.0.0.2"
      iex> inputs = %{"text" => ["hello"]}
      iex> {:ok, result} = :erpc.call(host, GpuSched, :infer, [MyApp.Gpu, "minilm", inputs])
      iex> result["outputs"]["embedding"]["shape"]
      [1, 384]

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
      deadline: past it the request is cancelled, and the error is `:deadline_exceeded`. The
      scheduler is given a little less, so that an answer which is just in time is here in time: by
      what answers take on their way to their callers of late, from node to node as well, but by a
      quarter of it at most;
    * `:output` - `:binary`, `:list` or `:nx`, as above;
    * `:priority` - 0 (the default, the most urgent) to 7;
    * `:parameters` - a map or keyword list for the model: booleans, numbers and strings;
    * `:client` - whose share of the devices it counts to, at most 63 bytes; unless given, that of
      the scheduler (see `start_link/1`), or else the name of the node that the owner of the
      request is on;
    * `:overload` - what to do where the credit of the scheduler is used up, or where 8 MiB wait to
      be sent to its node: `:error` (the default) answers `:overloaded` with `retry_after_ms` at
      once, `:wait` waits within the timeout;
    * `:unavailable` - what to do while `sched-port` is being restarted: `:error` answers
      `:unavailable` at once, `:wait` waits within the timeout. Unless given, the same as
      `:overload`.

  An option that is unknown or has a wrong value raises an `ArgumentError`: it is a mistake in the
  program. Everything that can happen to a request is answered as `{:error, %GpuSched.Error{}}`.

  ## Jobs

  A job is a program that takes several devices at once and runs on them until it has finished,
  beside inference and in its share:

      {:ok, job} = GpuSched.submit(MyApp.Gpu, "gemm", devices: 2, parameters: [seconds: 10])
      job                                  # "gpu@10.0.0.2/MyApp.Gpu/17"
      {:ok, result} = GpuSched.await(job, progress: true)

  The id is a string, and good on every node that can reach the one it names: `await/2`, `watch/2`,
  `subscribe/2`, `job/2`, `cancel/1` take nothing else. A job belongs to the scheduler and not to
  whoever submitted it, unless that was asked for (`link: true`): a laptop may go to sleep and ask
  in the morning. What became of the last jobs is kept (`:kept_jobs`). A job ends with its
  `sched-port`: then its end is the error `:job_lost`.

  `reserve/3` takes devices for code of your own, and gives them back when that is done.

  ## Watching, measuring, testing

  `top/2` shows a scheduler in a terminal, `GpuSched.Web` on a page and to Prometheus, and `subscribe/2`
  tells what happens there. `GpuSched.Load` finds out what it can take. `GpuSched.Test` stands in for it in
  an application's own tests.

  ## Telemetry

  Where the application has `:telemetry`, the events of `GpuSched.Telemetry` are emitted.
  """

  alias GpuSched.{Admin, Async, Error, Events, Jobs, Local, Many, Options}
  alias GpuSched.{Remote, Request, Resolve, Server}

  @typedoc "A scheduler: its name, its pid, or `{name, node}`; `:any` where that is said."
  @type server :: GenServer.server()

  @typedoc "The name of a model."
  @type model :: String.t()

  @typedoc "A tensor, as the section Tensors has it."
  @type tensor :: map | list | number | boolean | String.t() | struct

  @type inputs :: %{optional(String.t() | atom) => tensor}

  @typedoc "A map with string keys; the section Tensors lists them."
  @type result :: %{String.t() => term}

  @typedoc "The id of a job: its node, its scheduler and its number there."
  @type job_id :: String.t()

  @typedoc "For `submit/3` and `reserve/3`, which say what they mean."
  @type job_option ::
          {:name, String.t()}
          | {:devices, pos_integer}
          | {:allowed, [String.t()]}
          | {:parameters, map | keyword}
          | {:library, String.t()}
          | {:memory_bytes, pos_integer}
          | {:client, String.t()}
          | {:priority, 0..7}
          | {:time_limit, timeout}
          | {:step_limit, timeout}
          | {:link, boolean}
          | {:timeout, timeout}

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
    * `:shutdown` - how long the end may take, in ms, or `:infinity`; 10 000. The child
      specification has it too, so say it here and not to `Supervisor.child_spec/2`. New requests are
      refused, those in flight are waited for until two seconds before that (until the half of
      what is less than four), then `sched-port` is closed and its end is waited for;
    * `:restart_backoff` - `{min, max}` in ms between restarts of `sched-port`, doubling from one
      to the other; `{100, 5000}`;
    * `:watchdog` - after how many ms in which `sched-port` has not answered at all it is killed and
      restarted; 30 000, or `:infinity`;
    * `:max_waiting` - how many callers may wait for credit (`overload: :wait`); 65 536;
    * `:relay_bytes` - how much may wait to be sent to one other node by `stream_to/5`; 64 MiB;
    * `:client` - whose share the requests and jobs count to that do not say so themselves;
    * `:kept_jobs` - of how many jobs that have ended it is kept what became of them; 256.
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

      iex> opts = [output: :list, timeout: 30_000]
      iex> {:ok, result} = GpuSched.infer(MyApp.Gpu, "minilm", %{"text" => ["hello"]}, opts)
      iex> [vector] = result["outputs"]["embedding"]
      iex> length(vector)
      384

  The options are those of the section "Options of a request" above.
  """
  @spec infer(server, model, inputs, [infer_option]) :: {:ok, result} | {:error, Error.t()}
  def infer(server, model, inputs, opts \\ [])

  def infer(:any, model, inputs, opts),
    do: :any |> async(model, inputs, opts) |> await()

  def infer(server, model, inputs, opts) do
    opts = Options.infer!(opts)

    case Resolve.server(server) do
      {:local, ctx} -> Local.infer(ctx, model, inputs, opts)
      {:remote, node, name} -> Remote.infer(node, name, model, inputs, opts)
      {:error, error} -> {:error, error}
    end
  end

  @doc """
  As `infer/4`, but answers the result itself and raises the error.

      iex> GpuSched.infer!(MyApp.Gpu, "minilm", %{"text" => ["hello"]})["batch"]
      1
      iex> try do
      ...>   GpuSched.infer!(MyApp.Gpu, "no such model", %{})
      ...> rescue
      ...>   error in GpuSched.Error -> error.reason
      ...> end
      :unknown_model
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
  Waits for a request begun with `async/4`, or for a job of that id.

  A request that is not done within `timeout` is cancelled, and the error is `:deadline_exceeded`;
  its own `timeout:` holds as well, and is the only limit unless another is given. Raises an
  `ArgumentError` in a process that did not begin it.

  A job may be awaited by anybody, on any node, any number of times, and also when it has ended
  long ago, if it is one of the last (`:kept_jobs`). It goes on when the time is up. The result is a
  map of what its program had to tell: name → boolean, number or string. Beside a timeout there may
  be options:

    * `:timeout` - in ms; `:infinity` unless given;
    * `:progress` - `true` draws a bar meanwhile, as `watch/2` does.
  """
  @spec await(Request.t() | job_id, timeout | [{:timeout, timeout} | {:progress, boolean}]) ::
          {:ok, result | map} | {:error, Error.t()}
  def await(request_or_job, timeout \\ :infinity)
  def await(%Request{} = request, timeout), do: Async.await(request, Options.wait!(timeout))
  def await(job, opts) when is_binary(job) and is_list(opts), do: Jobs.await(job, opts)
  def await(job, timeout) when is_binary(job), do: Jobs.await(job, timeout: timeout)
  def await(other, _timeout), do: no_request!(:await, other)

  @doc """
  Waits at most `timeout` ms for a request begun with `async/4`; `nil` where it is not done yet. It
  goes on then, and may be asked for again.
  """
  @spec yield(Request.t(), timeout) :: {:ok, result} | {:error, Error.t()} | nil
  def yield(%Request{} = request, timeout \\ 5_000),
    do: Async.yield(request, Options.wait!(timeout))

  @doc """
  Waits for many requests, at most `timeout` ms altogether; the results are in the order of the
  requests. Those that are not done in time are cancelled, with the error `:deadline_exceeded`.

      iex> texts = ["one", "two", "three"]
      iex> requests = for t <- texts, do: GpuSched.async(MyApp.Gpu, "minilm", %{"text" => [t]})
      iex> for {:ok, result} <- GpuSched.await_many(requests), do: result["attempts"]
      [1, 1, 1]
  """
  @spec await_many([Request.t()], timeout) :: [{:ok, result} | {:error, Error.t()}]
  def await_many(requests, timeout \\ :infinity) when is_list(requests),
    do: Async.await_many(requests, Options.wait!(timeout))

  @doc """
  Cancels a request begun with `async/4`, or a job.

  No message of the request arrives any more; one that had arrived already is taken out of the
  mailbox. A job's end, which is then the error `:cancelled`, comes to those who wait for it; one that
  has ended already stays as it is.
  """
  @spec cancel(Request.t() | job_id) :: :ok | {:error, Error.t()}
  def cancel(%Request{} = request), do: Async.cancel(request)
  def cancel(job) when is_binary(job), do: Jobs.cancel(job)

  def cancel(other), do: no_request!(:cancel, other)

  @spec no_request!(atom, term) :: no_return
  defp no_request!(function, other) do
    raise ArgumentError,
          "#{function} takes what async answered, or the id of a job; got " <>
            inspect(other, limit: 5, printable_limit: 80)
  end

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

      iex> opts = [parameters: [parts: 3], output: :list]
      iex> stream = GpuSched.stream(MyApp.Gpu, "ticker", %{"data" => [1]}, opts)
      iex> Enum.map(stream, fn part -> part["outputs"]["part"] end)
      [[1], [2], [3]]

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

      iex> inputs = Stream.map(1..1_000, &%{"text" => ["sentence", Integer.to_string(&1)]})
      iex> results = GpuSched.infer_many(MyApp.Gpu, "minilm", inputs, timeout: 60_000)
      iex> Enum.count(results, fn {:ok, result} -> result["outputs"]["embedding"] end)
      1000

  Yields `{:ok, result}` or `{:error, error}` for each; one that fails does not end the others. If
  the enumeration is halted, what is in flight is cancelled.

  Beside the options of a request, of which `:overload` is `:wait` here unless given and `:timeout`
  is for each request:

    * `:max_concurrency` - how many requests are in flight at once; 256;
    * `:ordered` - whether the results come in the order of the inputs; `true`. `false` yields
      each as soon as it is there, with the index of its input, so that it can be told which it
      is: `{index, {:ok, result}}`.
  """
  @spec infer_many(server, model, Enumerable.t(), [
          infer_option | {:max_concurrency, pos_integer} | {:ordered, boolean}
        ]) :: Enumerable.t()
  def infer_many(server, model, enumerable, opts \\ []),
    do: Many.new(server, model, enumerable, Options.many!(opts))

  @doc """
  Runs one request and sends its parts and its end to `pid`, which may be on any node and needs
  none of our code there.

      {:ok, ref} =
        :erpc.call(host, GpuSched, :stream_to, [MyApp.Gpu, "ticker", inputs, self(), [credit: 4]])

      receive do
        {^ref, {:part, part}} ->
          # … and let one more come:
          :erpc.cast(host, GpuSched, :grant, [MyApp.Gpu, ref, 1])

        {^ref, {:done, result}} ->
          …

        {^ref, {:error, error}} ->
          …
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
  Submits a job: a program that takes `:devices` at once. Answers its id at once; its parameters are
  checked, it waits for its devices, and runs, on its own. What can be seen at once is refused at
  once: a program that is not there is `:not_found`.

      {:ok, job} = GpuSched.submit(MyApp.Gpu, "allreduce", devices: 4)

  The program is a name: of one that is built in (`"gemm"`, `"allreduce"`, `"train"`, `"embed"`) or of a
  plugin's. It takes parameters and no tensors; what is large belongs into a file on the scheduler's
  machine. Options:

    * `:devices` - how many; 1;
    * `:allowed` - names of the devices it may have; all GPUs (where there are none: all CPU devices)
      unless given;
    * `:parameters` - a map or keyword list for the program: booleans, numbers and strings;
    * `:name` - what it is called in lists; the program's name unless given;
    * `:library` - the path of the plugin that has the program, where it is not on the scheduler's
      path;
    * `:memory_bytes` - what each device needs of memory, where the program does not say;
    * `:priority`, `:client` - as of a request;
    * `:time_limit` - how long it may run, in ms; past it, it ends with `:time_limit`;
    * `:step_limit` - how long one step of it may take, in ms; 60 000. Past it, its workers are
      ended, and it with them;
    * `:link` - `true` cancels it when the calling process dies, or its node goes away. Unless
      given, it outlives both;
    * `:timeout` - how long to wait for the id, in ms; 5000.
  """
  @spec submit(server, String.t() | atom, [job_option]) :: {:ok, job_id} | {:error, Error.t()}
  def submit(server, program, opts \\ []), do: Jobs.submit(server, program, opts)

  @doc """
  Draws how far a job is, until it has ended; answers what `await/2` would.

  It is drawn where the group leader of the caller is: `:erpc.call(host, GpuSched, :watch, [job])`
  shows it on the laptop that calls. What is no terminal gets a line for each tenth. `:timeout` is
  `:infinity` unless given.
  """
  @spec watch(job_id, [{:timeout, timeout}]) :: {:ok, map} | {:error, Error.t()}
  def watch(job, opts \\ []) when is_binary(job), do: Jobs.watch(job, opts)

  @doc """
  Has the events of a job, or of a scheduler, sent to `pid`, which may be on any node and needs none of
  our code there; unless given, it is the calling process, through `:erpc` that of the other node.

  Of a **job**, by its id:

      receive do
        {:gpu_sched, ^job, {:progress, progress}} -> progress["done"] / progress["total"]
        {:gpu_sched, ^job, {:done, result}} -> result
        {:gpu_sched, ^job, {:error, error}} -> error.reason
      end

  `progress` is a map with `"state"`, `"devices"` and, once it is known, `"done"`, `"total"` (absent
  where it is not known) and `"message"`. How far it is now comes first, then what changes, at most
  some ten times a second: a subscriber that is slow, or whose node is, gets the latest and not all.
  Exactly one `:done` or `:error` comes, and it is the last; at once, where the job has ended.

  Of a **scheduler**, the answer is `{:ok, source}`, and everything that happens there from now on is
  told as `{:gpu_sched, source, event}`:

      {:ok, source} = GpuSched.subscribe({MyApp.Gpu, :"gpu@10.0.0.2"})
      source                               # "gpu@10.0.0.2/MyApp.Gpu", with which its jobs begin

  | event | a map with |
  |---|---|
  | `{:job, job}` | `"job"`, `"name"`, `"state"` (`"pending"`, `"running"`, `"ended"` and more), `"devices"`, `"done"`, `"total"`, `"message"`; at its end `"error"`; the result is what `await/2` answers. Progress comes at most ten times a second |
  | `{:model, model}` | `"name"`, `"state"` (`"loading"`, `"ready"`, `"failed"`, `"unloading"`, `"gone"`), `"error"` |
  | `{:device, device}` | `"name"`, `"state"` (`"up"`, `"starting"`, `"down"`, `"held"`), `"reason"` |
  | `{:port, port}` | `"state"`: `"up"`, `"down"` (with `"reason"` and `"restart_ms"`), or `"stopped"`, which is the last |
  | `{:overload, overload}` | `"state"`: `"begun"`, when requests begin to be refused for want of room, or `"over"`, when none was for a second; `"refused"`: how many; `"at"`: `"credit"` (before they were sent) or `"port"` |
  | `{:missed, n}` | so many events had no room: at most 1000 wait for a subscriber that is slow, or whose node is, and nothing is sent to a mailbox that holds 1000 messages |
  """
  @spec subscribe(job_id | server, pid | nil) :: :ok | {:ok, String.t()} | {:error, Error.t()}
  def subscribe(job_or_server, pid \\ nil)

  def subscribe(job, pid) when is_binary(job) and (is_pid(pid) or is_nil(pid)),
    do: Jobs.subscribe(job, pid)

  def subscribe(server, pid) when is_pid(pid) or is_nil(pid), do: Events.subscribe(server, pid)

  @doc """
  Ends what `subscribe/2` began. Messages that are under way still arrive.
  """
  @spec unsubscribe(job_id | server, pid | nil) :: :ok | {:error, Error.t()}
  def unsubscribe(job_or_server, pid \\ nil)

  def unsubscribe(job, pid) when is_binary(job) and (is_pid(pid) or is_nil(pid)),
    do: Jobs.unsubscribe(job, pid)

  def unsubscribe(server, pid) when is_pid(pid) or is_nil(pid),
    do: Events.unsubscribe(server, pid)

  @doc """
  The jobs that have not ended, in the order they were submitted: a list of maps as `job/2` has
  them. With `ended: true`, those that have ended and are kept come before them.
  """
  @spec jobs(server, [{:timeout, timeout} | {:ended, boolean}]) ::
          {:ok, [map]} | {:error, Error.t()}
  def jobs(server, opts \\ []), do: Jobs.list(server, opts)

  @doc """
  What a job is at: a map with `"job"`, `"name"`, `"program"`, `"state"`, `"client"`, `"devices"`,
  `"done"`, `"total"`, `"message"`, `"queued_us"`, `"run_us"`, `"device_us"` and `"why"`: what it waits
  for, or why it has the devices it has. Of one that has ended: `"result"` and `"error"`.
  """
  @spec job(job_id, [{:timeout, timeout}]) :: {:ok, map} | {:error, Error.t()}
  def job(job, opts \\ []) when is_binary(job), do: Jobs.job(job, opts)

  @doc """
  Takes devices for code of your own, and holds them: their workers are ended, so that nothing of
  ours is on them.

      GpuSched.reserve(MyApp.Gpu, [devices: 2, time_limit: 60_000], fn ["gpu:0", "gpu:1"] ->
        MyApp.train_with_exla()
      end)

  With a function, it is called with the names of the devices, in a process linked to the caller (as
  a `Task`); the answer is `{:ok, what_it_returned}`. The devices are given back when it is done, when
  the caller dies, and when `:time_limit` is up: the function's process is killed then, and the answer
  is the error `:time_limit`.

  Without one, the answer is `{:ok, %{"job" => id, "devices" => names}}` once they are had, and the
  calling process (through `:erpc`, that of the other node) holds them until it calls `release/1`,
  dies, or the time is up.

  The options are those of `submit/3` but for `:parameters`, `:library`, `:memory_bytes`, `:step_limit`
  and `:link`. `:timeout` is how long to wait for the devices; `:infinity` unless given.
  """
  @spec reserve(server, [job_option], ([String.t()] -> term)) :: {:ok, term} | {:error, Error.t()}
  def reserve(server, opts, fun) when is_list(opts) and is_function(fun, 1),
    do: Jobs.Hold.run(server, opts, fun)

  @doc """
  As `reserve/3`, with a function or with options only.
  """
  @spec reserve(server, [job_option] | ([String.t()] -> term)) ::
          {:ok, term} | {:error, Error.t()}
  def reserve(server, opts_or_fun \\ [])
  def reserve(server, fun) when is_function(fun, 1), do: Jobs.Hold.run(server, [], fun)
  def reserve(server, opts) when is_list(opts), do: Jobs.reserve(server, opts)

  @doc """
  Gives back what `reserve/2` took.
  """
  @spec release(job_id) :: :ok | {:error, Error.t()}
  def release(job) when is_binary(job), do: Jobs.release(job)

  @doc """
  The models that are loaded, loading or failed: a list of maps with `"name"`, `"state"`,
  `"inputs"`, `"outputs"`, limits and counters, as `docs/protocol.md` has them.

      iex> {:ok, models} = GpuSched.models(MyApp.Gpu)
      iex> Enum.sort(for model <- models, do: model["name"])
      ["minilm", "ticker"]
  """
  @spec models(server, [{:timeout, timeout}]) :: {:ok, [map]} | {:error, Error.t()}
  def models(server, opts \\ []), do: Admin.call(server, :models, [], opts)

  @doc """
  The devices of the machine: a list of maps with `"name"`, `"kind"`, `"usable"` (and `"reason"`,
  where it is not), `"state"`, `"numa_node"`, `"memory_bytes"` and more. A GPU's `"readings"` are what
  its instruments showed within the last second or so, as `docs/protocol.md` has them: load, memory in
  use, temperature, power, why its clock is low, NVLinks, ECC errors and Xids; or the `"reason"` for
  which there are none.

      iex> {:ok, devices} = GpuSched.devices(MyApp.Gpu)
      iex> Enum.find(devices, &(&1["name"] == "cpu:0"))["kind"]
      "cpu"
  """
  @spec devices(server, [{:timeout, timeout}]) :: {:ok, [map]} | {:error, Error.t()}
  def devices(server, opts \\ []), do: Admin.call(server, :devices, [], opts)

  @doc """
  Counters of the scheduler as a whole, of each model and each device, and of the port.

      iex> {:ok, stats} = GpuSched.stats(MyApp.Gpu)
      iex> Map.keys(stats["models"])
      ["minilm", "ticker"]
  """
  @spec stats(server, [{:timeout, timeout}]) :: {:ok, map} | {:error, Error.t()}
  def stats(server, opts \\ []), do: Admin.call(server, :stats, [], opts)

  @doc """
  How long the requests of each model took that were answered, and in what batches they were.

      iex> {:ok, %{"minilm" => model}} = GpuSched.histograms(MyApp.Gpu)
      iex> length(model["queue_us"])
      32

  A map of models, each with `"queue_us"`, `"compute_us"`, `"total_us"` (both) and `"batch"`: lists of how
  many were above 2^(i-1) and not above 2^i, as `docs/protocol.md` has it. `GpuSched.Metrics` makes
  Prometheus' histograms of them.
  """
  @spec histograms(server, [{:timeout, timeout}]) :: {:ok, map} | {:error, Error.t()}
  def histograms(server, opts \\ []), do: Admin.call(server, :histograms, [], opts)

  @doc """
  Who has requests under way: a list of maps with `"node"`, `"in_flight"` and `"processes"`.

      iex> GpuSched.clients(MyApp.Gpu)
      {:ok, []}
  """
  @spec clients(server, [{:timeout, timeout}]) :: {:ok, [map]} | {:error, Error.t()}
  def clients(server, opts \\ []), do: Admin.call(server, :clients, [], opts)

  @doc """
  Shows devices, models, queues, jobs and clients in the terminal, anew every second, until Enter is
  pressed.

      GpuSched.top({MyApp.Gpu, :"gpu@10.0.0.2"})
      :erpc.call(:"gpu@10.0.0.2", GpuSched, :top, [MyApp.Gpu])    # from a node without this library

  It is drawn where the group leader of the caller is. Percentiles are read off buckets that double,
  so they are estimates; `GpuSched.Load` measures. Options: `:interval` in ms, 1000; `:frames`, how many
  to draw, `:infinity`. What is no terminal gets one below the other, and needs `:frames`, as nobody
  presses Enter there.
  """
  @spec top(server, [{:interval, pos_integer} | {:frames, pos_integer | :infinity}]) ::
          :ok | {:error, Error.t()}
  def top(server, opts \\ []), do: GpuSched.Top.run(server, opts)

  @doc """
  The schedulers of all hosts that this node knows of, its own among them: a list of maps.

      {:ok, hosts} = GpuSched.cluster()

  | key | |
  |---|---|
  | `"server"` | `{name, node}`, for the first argument of the other functions |
  | `"node"`, `"region"` | where it is; the region is nil unless the host says one |
  | `"state"` | `"up"`, `"starting"`, `"down"`, `"closing"`, or `"silent"`: not heard of for a while |
  | `"round_trip_us"` | to it and back; nil where it has not been measured yet |
  | `"via"` | the host that told of it, where this node is not connected to it; else nil |
  | `"in_flight"`, `"capacity"` | requests that are in flight there, and that may be |
  | `"models"` | name → state |
  | `"devices"` | the names of those that can be used |

  `GpuSched.Cluster` says how they know each other. `:timeout` is 5000 ms unless given.
  """
  @spec cluster([{:timeout, timeout}]) :: {:ok, [map]} | {:error, Error.t()}
  def cluster(opts \\ []),
    do: GpuSched.Cluster.list(Options.admin!(:cluster, opts)[:timeout])

  @doc """
  Prints what is wrong between this node and a host, and what to do about it; measures the round trip
  and the bandwidth where all is well. Takes a node or `{scheduler, node}`. Answers `:ok`, or the
  checks that failed, as `{:error, [:cookie]}`.

      GpuSched.doctor(:"gpu@10.0.0.2")
        WRONG  there is no route to 10.0.0.2 (no route to host)
               Is the machine up, and the VPN, if it is behind one? …
      {:error, [:route]}

  `GpuSched.Doctor.examine/2` answers the same as a list, for programs.
  """
  @spec doctor(node | {atom, node}) :: :ok | {:error, [atom]}
  def doctor(target), do: GpuSched.Doctor.print(target)

  @doc """
  Loads a model and waits until it is ready.

      iex> {:ok, model} = GpuSched.load(MyApp.Gpu, "noop", engine: "synthetic", queue_limit: 500)
      iex> {model["state"], model["queue_limit"]}
      {"ready", 500}
      iex> GpuSched.unload(MyApp.Gpu, "noop")
      :ok

  Options: `:path` (a folder with a `gpu_sched.json`, or in Hugging Face layout), `:engine`,
  `:library` (a plugin), `:parameters` (a map or keyword list for the engine), `:devices` (names of
  those to use), `:max_batch_requests`, `:max_batch_units`, `:max_request_units`, `:queue_limit`,
  `:step_limit` (in ms, or `:infinity`: a worker that takes longer for one step hangs, and is ended;
  what it was at is run again, each request alone, and who hangs it by itself twice is
  `:poisoned`. Unless given, 32 times what such a step was seen to take, at least 10 s and at
  most 10 minutes); and `:timeout`, 60 000 ms unless given, after which the load goes on unattended. A model loaded
  so is loaded again when `sched-port` is restarted, until it is unloaded.
  """
  @spec load(server, model, keyword) :: {:ok, map} | {:error, Error.t()}
  def load(server, model, opts \\ []) when is_binary(model),
    do: Admin.call(server, :load, [model], opts)

  @doc """
  Unloads a model: its waiting requests end with `:unknown_model`, running ones run to their end.
  """
  @spec unload(server, model, [{:timeout, timeout}]) :: :ok | {:error, Error.t()}
  def unload(server, model, opts \\ []) when is_binary(model),
    do: Admin.call(server, :unload, [model], opts)

  @doc """
  Waits until a model is ready and answers its description; or, with `:all`, until every model of
  `models/1` is, and answers theirs. The error is the reason where one has failed. `:timeout` is
  60 000 ms unless given.
  """
  @spec await_ready(server, model | :all, [{:timeout, timeout}]) ::
          {:ok, map | [map]} | {:error, Error.t()}
  def await_ready(server, model \\ :all, opts \\ []) when is_binary(model) or model == :all,
    do: Admin.call(server, :await_ready, [model], opts)
end
