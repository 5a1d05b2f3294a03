# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Options do
  # Options are checked at the door, with messages that say what was got.
  @moduledoc false

  alias GpuSched.NxBridge

  @default_timeout 5_000
  @admin_timeout 5_000
  @load_timeout 60_000
  @default_shutdown 10_000
  @default_credit 16
  @default_concurrency 256
  # In ms: what the BEAM's timers take.
  @longest 0xFFFFFFFF

  # Those of a request. It also travels to other nodes (see GpuSched.Remote), as the keyword list
  # that to_list/1 makes of it.
  # `deadline` is what the timeout came to where it began to count before this was passed on.
  defstruct timeout: @default_timeout,
            deadline: nil,
            output: :binary,
            priority: nil,
            parameters: nil,
            client: nil,
            overload: :error,
            unavailable: nil,
            credit: nil,
            max_concurrency: @default_concurrency,
            ordered: true

  @type t :: %__MODULE__{}

  @request [:timeout, :output, :priority, :parameters, :client, :overload, :unavailable]

  @spec infer!(keyword) :: t
  def infer!([]), do: %__MODULE__{unavailable: :error}
  def infer!(opts), do: request(opts, %__MODULE__{}, @request)

  @spec stream!(keyword) :: t
  def stream!(opts), do: request(opts, %__MODULE__{credit: @default_credit}, [:credit | @request])

  @spec stream_to!(keyword) :: t
  def stream_to!(opts) do
    opts = stream!(opts)

    if opts.output == :nx,
      do: raise(ArgumentError, "stream_to/5 sends plain terms: output must be :binary or :list")

    opts
  end

  @spec many!(keyword) :: t
  def many!(opts) do
    allowed = [:max_concurrency, :ordered | @request]
    request(opts, %__MODULE__{overload: :wait}, allowed)
  end

  @spec to_list(t, [atom]) :: keyword
  def to_list(%__MODULE__{} = opts, also \\ []) do
    for key <- @request ++ also, value = Map.fetch!(opts, key), do: {key, value}
  end

  # Of a job that is waited for.
  @spec await!(keyword) :: :ok
  def await!(opts) do
    check_keys!(opts, [:timeout, :progress])
    if Keyword.has_key?(opts, :timeout), do: check!(:timeout, opts[:timeout])

    if opts[:progress] not in [nil, true, false],
      do: wrong!(:progress, opts[:progress], "true or false")

    :ok
  end

  # How long to wait for a request that goes on.
  @spec wait!(term) :: timeout
  def wait!(timeout) do
    check!(:timeout, timeout)
    timeout
  end

  @spec jobs!(keyword) :: keyword
  def jobs!(opts) do
    check_keys!(opts, [:timeout, :ended])
    opts = Keyword.put_new(opts, :ended, false)
    unless is_boolean(opts[:ended]), do: wrong!(:ended, opts[:ended], "true or false")
    timeout!(opts, @admin_timeout)
  end

  @spec top!(keyword) :: keyword
  def top!(opts) do
    check_keys!(opts, [:interval, :frames])
    opts = Keyword.merge([interval: 1_000, frames: :infinity], opts)
    %{interval: interval, frames: frames} = Map.new(opts)

    unless interval in 1..@longest, do: wrong!(:interval, interval, "a positive integer")

    unless frames == :infinity or (is_integer(frames) and frames > 0),
      do: wrong!(:frames, frames, "a positive integer or :infinity")

    opts
  end

  @spec admin!(atom, keyword) :: keyword
  def admin!(:load, opts) do
    check_keys!(opts, [:timeout | GpuSched.Models.options()])
    timeout!(opts, @load_timeout)
  end

  def admin!(:await_ready, opts) do
    check_keys!(opts, [:timeout])
    timeout!(opts, @load_timeout)
  end

  def admin!(_function, opts) do
    check_keys!(opts, [:timeout])
    timeout!(opts, @admin_timeout)
  end

  defp timeout!(opts, default) do
    opts = Keyword.put_new(opts, :timeout, default)
    check!(:timeout, opts[:timeout])
    opts
  end

  defp request(opts, acc, allowed) when is_list(opts) do
    opts =
      Enum.reduce(opts, acc, fn
        {key, value}, acc when is_atom(key) ->
          unless key in allowed, do: unknown!(key, allowed)
          check!(key, value)
          %{acc | key => value}

        other, _acc ->
          raise ArgumentError, "options are a keyword list; got the element #{inspect(other)}"
      end)

    %{opts | unavailable: opts.unavailable || opts.overload}
  end

  defp request(opts, _acc, _allowed),
    do: raise(ArgumentError, "options are a keyword list; got #{inspect(opts, limit: 5)}")

  # ---- starting a scheduler

  @start [
    name: nil,
    models: [],
    port_path: nil,
    port_options: [],
    port_env: [],
    start_timeout: 30_000,
    shutdown: @default_shutdown,
    restart_backoff: {100, 5_000},
    watchdog: 30_000,
    max_waiting: 65_536,
    relay_bytes: 64 * 1024 * 1024,
    client: nil,
    kept_jobs: 256
  ]

  def default_shutdown, do: @default_shutdown

  @spec start!(keyword) :: map
  def start!(opts) do
    check_keys!(opts, Keyword.keys(@start))

    for {key, value} <- opts, key != :models, do: check!(key, value)

    @start
    |> Keyword.merge(opts)
    |> Map.new()
    |> Map.update!(:models, &GpuSched.Models.specs!/1)
  end

  # ---- one option

  defp check!(:timeout, :infinity), do: :ok
  defp check!(:timeout, n) when n in 0..@longest, do: :ok
  defp check!(:timeout, v), do: wrong!(:timeout, v, "milliseconds or :infinity")
  defp check!(:output, v) when v in [:binary, :list], do: :ok

  defp check!(:output, :nx) do
    unless NxBridge.available?() do
      raise ArgumentError,
            "output: :nx takes Nx, which #{node()} does not have; ask for :list or :binary"
    end
  end

  defp check!(:output, v), do: wrong!(:output, v, ":binary, :list or :nx")
  defp check!(:priority, n) when n in 0..7, do: :ok
  defp check!(:priority, v), do: wrong!(:priority, v, "an integer from 0 to 7")
  defp check!(:parameters, v) when is_map(v) and not is_struct(v), do: :ok

  defp check!(:parameters, v) when is_list(v) do
    unless Keyword.keyword?(v), do: wrong!(:parameters, v, "a map or a keyword list")
  end

  defp check!(:parameters, v), do: wrong!(:parameters, v, "a map or a keyword list")
  defp check!(:client, nil), do: :ok
  defp check!(:client, s) when is_binary(s) and byte_size(s) <= 63, do: :ok
  defp check!(:client, v), do: wrong!(:client, v, "a string of at most 63 bytes")
  defp check!(:overload, v) when v in [:error, :wait], do: :ok
  defp check!(:overload, v), do: wrong!(:overload, v, ":error or :wait")
  defp check!(:unavailable, v) when v in [:error, :wait], do: :ok
  defp check!(:unavailable, v), do: wrong!(:unavailable, v, ":error or :wait")
  defp check!(:credit, n) when is_integer(n) and n > 0 and n <= 65_535, do: :ok
  defp check!(:credit, v), do: wrong!(:credit, v, "an integer from 1 to 65535")
  defp check!(:max_concurrency, n) when is_integer(n) and n > 0, do: :ok
  defp check!(:max_concurrency, v), do: wrong!(:max_concurrency, v, "a positive integer")
  defp check!(:ordered, v) when is_boolean(v), do: :ok
  defp check!(:ordered, v), do: wrong!(:ordered, v, "true or false")

  defp check!(:name, nil), do: :ok
  defp check!(:name, name) when is_atom(name), do: :ok
  defp check!(:name, {:global, _}), do: :ok
  defp check!(:name, {:via, module, _}) when is_atom(module), do: :ok
  defp check!(:name, v), do: wrong!(:name, v, "an atom, {:global, term} or {:via, module, term}")
  defp check!(:port_path, nil), do: :ok
  defp check!(:port_path, v) when is_binary(v), do: :ok
  # GpuSched.Test's.
  defp check!(:port_path, {module, _config}) when is_atom(module), do: :ok
  defp check!(:port_path, v), do: wrong!(:port_path, v, "the path of sched-port, a string")

  defp check!(:port_options, v) do
    unless Keyword.keyword?(v), do: wrong!(:port_options, v, "a keyword list")

    for {key, value} <- v,
        not (is_binary(value) or is_integer(value) or is_boolean(value) or
               (is_atom(value) and value != nil)) do
      wrong!(:port_options, [{key, value}], "a string, an integer or a boolean for each")
    end
  end

  defp check!(:port_env, v) do
    ok? = is_list(v) and Enum.all?(v, &match?({k, x} when is_binary(k) and is_binary(x), &1))
    unless ok?, do: wrong!(:port_env, v, ~s(a list of {"NAME", "value"}))
  end

  defp check!(key, n)
       when key in [:max_waiting, :relay_bytes, :kept_jobs] and is_integer(n) and n > 0,
       do: :ok

  defp check!(:start_timeout, n) when n in 1..@longest, do: :ok
  defp check!(:start_timeout, v), do: wrong!(:start_timeout, v, "milliseconds")
  defp check!(:shutdown, n) when n == :infinity or n in 0..@longest, do: :ok
  defp check!(:shutdown, v), do: wrong!(:shutdown, v, "milliseconds or :infinity")
  defp check!(:watchdog, n) when n == :infinity or n in 1..@longest, do: :ok
  defp check!(:watchdog, v), do: wrong!(:watchdog, v, "milliseconds or :infinity")

  defp check!(:restart_backoff, {min, max})
       when min in 1..@longest and max in 1..@longest and max >= min,
       do: :ok

  defp check!(:restart_backoff, v), do: wrong!(:restart_backoff, v, "{min, max} in milliseconds")
  defp check!(key, v), do: wrong!(key, v, "a positive integer")

  defp check_keys!(opts, allowed) do
    unless Keyword.keyword?(opts),
      do: raise(ArgumentError, "options are a keyword list; got #{inspect(opts, limit: 5)}")

    for {key, _} <- opts, key not in allowed, do: unknown!(key, allowed)
  end

  @spec unknown!(atom, [atom]) :: no_return
  def unknown!(key, allowed) do
    raise ArgumentError,
          "unknown option #{inspect(key)}; there are #{Enum.map_join(Enum.sort(allowed), ", ", &inspect/1)}"
  end

  @spec wrong!(atom, term, String.t()) :: no_return
  defp wrong!(key, value, wanted) do
    raise ArgumentError,
          "the option #{inspect(key)} takes #{wanted}; got #{inspect(value, limit: 5, printable_limit: 80)}"
  end
end
