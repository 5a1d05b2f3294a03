# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Web do
  @moduledoc """
  A page that shows a scheduler live, and its metrics for Prometheus, over HTTP.

      children = [
        {GpuSched, name: MyApp.Gpu},
        {GpuSched.Web, server: MyApp.Gpu, port: 9464}
      ]

  | path | |
  |---|---|
  | `/` | load, latency, batch size and devices as charts, models and jobs as tables, every second |
  | `/metrics` | what `GpuSched.Metrics` has, in Prometheus' text format |
  | `/state.json` | what the page is drawn from |

  The server is that of OTP, in the application `:inets`. This library does not depend on it: on Debian
  it is the package `erlang-inets`, and a release has it where `extra_applications: [:inets]` says so.
  Where it is not there, `start_link/1` answers an error that says that.

  Nothing can be changed through it, but all can be read, so it listens on the loopback interface unless
  `:ip` says otherwise; there is neither a password nor encryption. Through `ssh -L` it is seen from
  elsewhere, or with `:server` naming a scheduler on another node it runs on the laptop itself:

      GpuSched.Web.start_link(server: {MyApp.Gpu, :"gpu@10.0.0.2"})

  Options:

    * `:server` - the scheduler, as the first argument of `GpuSched.infer/4`; required;
    * `:port` - 9464; 0 takes one that is free, see `port/1`;
    * `:ip` - the address to listen on, as a tuple; `{127, 0, 0, 1}`;
    * `:fresh_ms` - whoever asks for the page's numbers again so soon gets the last ones; 500;
    * `:idle` - a connection on which nothing was asked, or what was asked for was not read, for so many
      seconds is closed; 30. There are 64 at most;
    * `:hosts` - names by which it may be called, as strings, beside `localhost` and addresses; `[]`.
      A page on the web can have a name of its own point to this server, and would then read all that
      it shows (DNS rebinding); so a request for any other name is refused. A Prometheus that scrapes
      `gpu.internal:9464` needs `hosts: ["gpu.internal"]`;
    * `:name` - what the process is registered as.
  """
  use GenServer

  alias GpuSched.Error

  @compile {:no_warn_undefined, [:inets]}

  @doc "Starts the server and links it to the caller; usually called by a supervisor."
  @spec start_link(keyword) :: GenServer.on_start()
  def start_link(opts) do
    opts = check!(opts)
    GenServer.start_link(__MODULE__, opts, Keyword.take(opts, [:name]))
  end

  @doc "The port that it listens on."
  @spec port(GenServer.server()) :: :inet.port_number()
  def port(web), do: GenServer.call(web, :port)

  defp check!(opts) do
    for {key, value} <- opts do
      ok? =
        case key do
          :server ->
            true

          :port ->
            is_integer(value) and value in 0..65_535

          :ip ->
            is_tuple(value) and tuple_size(value) in [4, 8]

          :fresh_ms ->
            is_integer(value) and value >= 0

          :idle ->
            is_integer(value) and value > 0

          :hosts ->
            is_list(value) and Enum.all?(value, &is_binary/1)

          :name ->
            is_atom(value) or is_tuple(value)

          _ ->
            GpuSched.Options.unknown!(key, [:server, :port, :ip, :hosts, :fresh_ms, :idle, :name])
        end

      unless ok?,
        do:
          raise(
            ArgumentError,
            "the option #{inspect(key)} of GpuSched.Web; got #{inspect(value)}"
          )
    end

    unless opts[:server],
      do: raise(ArgumentError, "GpuSched.Web needs server:, the scheduler to show")

    Keyword.merge([port: 9464, ip: {127, 0, 0, 1}, hosts: [], fresh_ms: 500, idle: 30], opts)
  end

  @impl true
  def init(opts) do
    Process.flag(:trap_exit, true)

    with :ok <- available(),
         {:ok, httpd} <- start(opts) do
      {:ok, %{httpd: httpd, port: port_of(httpd)}}
    else
      {:error, error} -> {:stop, error}
    end
  end

  defp available do
    if Code.ensure_loaded?(:inets) and Code.ensure_loaded?(:httpd) do
      :ok
    else
      {:error,
       Error.exception(
         reason: :not_supported,
         message:
           "GpuSched.Web needs OTP's application :inets, which is not here: install erlang-inets " <>
             "(Debian), and add :inets to extra_applications of a release"
       )}
    end
  end

  defp start(opts) do
    # It insists on folders, though nothing is served from them.
    folder = to_charlist(System.tmp_dir!())

    config = [
      port: opts[:port],
      bind_address: opts[:ip],
      # Whoever does not take what was asked for is let go.
      socket_type: {:ip_comm, [send_timeout: opts[:idle] * 1_000, send_timeout_close: true]},
      ipfamily: if(tuple_size(opts[:ip]) == 8, do: :inet6, else: :inet),
      server_name: ~c"gpu_sched",
      server_root: folder,
      document_root: folder,
      server_tokens: :none,
      modules: [GpuSched.Web.Handler],
      # What comes is a line and some headers. Without a limit of its own the line is kept however
      # long it is.
      max_uri_size: 2_048,
      max_header_size: 16_384,
      max_body_size: 1_024,
      max_clients: 64,
      # So that nobody holds one of these for ever: in seconds.
      keep_alive_timeout: opts[:idle],
      max_keep_alive_request: 1_000,
      gpu_sched: opts[:server],
      gpu_sched_cache: GpuSched.Web.Cache.new(opts[:fresh_ms]),
      gpu_sched_hosts: Enum.map(opts[:hosts], &String.downcase/1)
    ]

    case :inets.start(:httpd, config, :stand_alone) do
      {:ok, pid} ->
        {:ok, pid}

      {:error, reason} ->
        {:error,
         Error.exception(
           reason: :start_failed,
           message:
             "GpuSched.Web cannot listen on #{:inet.ntoa(opts[:ip])} port #{opts[:port]}: " <>
               inspect(reason, limit: 8)
         )}
    end
  end

  # :httpd.info/1 knows servers of the application only, which would not end with this process. The
  # one that is started here is named by where it listens.
  defp port_of(httpd) do
    [{{:httpd_instance_sup, _address, port, _profile}, _pid, _type, _modules}] =
      Supervisor.which_children(httpd)

    port
  end

  @impl true
  def handle_call(:port, _from, state), do: {:reply, state.port, state}

  @impl true
  def handle_info({:EXIT, pid, reason}, %{httpd: pid} = state), do: {:stop, reason, state}
  def handle_info(_other, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, %{httpd: httpd}) do
    # Until the port is free again.
    monitor = Process.monitor(httpd)
    Process.exit(httpd, :shutdown)

    receive do
      {:DOWN, ^monitor, :process, _pid, _reason} -> :ok
    end
  end
end
