# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Jobs.Options do
  # The options of a job: checked at the door, and made into what goes over the wire.
  @moduledoc false

  alias GpuSched.{Error, Models, Msgpack}

  @common [:name, :devices, :allowed, :client, :priority, :time_limit, :timeout]
  @submit [:library, :parameters, :memory_bytes, :step_limit, :link | @common]
  # A job that is submitted is answered at once; a reservation is waited for.
  @submit_timeout 5_000

  defstruct link: false, timeout: nil, client: nil, entries: []

  @type t :: %__MODULE__{}

  @spec submit(String.t(), keyword) :: {:ok, t} | {:error, Error.t()}
  def submit(program, opts) do
    keyword!(opts)

    if Keyword.has_key?(opts, :inputs) do
      {:error, no_tensors("inputs")}
    else
      read(opts, @submit, %__MODULE__{
        timeout: @submit_timeout,
        entries: [["program" | Msgpack.str(program)]]
      })
    end
  end

  @spec reserve(keyword) :: {:ok, t} | {:error, Error.t()}
  def reserve(opts) do
    keyword!(opts)
    read(opts, @common, %__MODULE__{timeout: :infinity, link: true})
  end

  # The map, with whose it is.
  @spec params(t, String.t()) :: binary
  def params(%__MODULE__{entries: entries, client: client}, otherwise) do
    entries = [["client" | Msgpack.str(client || otherwise)] | entries]
    packed = for [key | value] <- entries, do: [Msgpack.str(key) | value]
    IO.iodata_to_binary([Msgpack.map_header(length(entries)) | packed])
  end

  defp keyword!(opts) do
    unless Keyword.keyword?(opts),
      do: raise(ArgumentError, "options are a keyword list; got #{inspect(opts, limit: 5)}")
  end

  defp read(opts, allowed, acc) do
    opts =
      Enum.reduce(opts, acc, fn {key, value}, acc ->
        unless key in allowed, do: GpuSched.Options.unknown!(key, allowed)
        option(key, value, acc)
      end)

    {:ok, opts}
  catch
    {:refused, error} -> {:error, error}
  end

  defp option(:link, v, acc) when is_boolean(v), do: %{acc | link: v}
  defp option(:link, v, _acc), do: wrong!(:link, v, "true or false")
  defp option(:timeout, :infinity, acc), do: %{acc | timeout: :infinity}

  defp option(:timeout, n, acc) when is_integer(n) and n >= 0 and n <= 0xFFFFFFFF,
    do: %{acc | timeout: n}

  defp option(:timeout, v, _acc), do: wrong!(:timeout, v, "milliseconds or :infinity")
  defp option(:client, s, acc) when is_binary(s) and byte_size(s) <= 63, do: %{acc | client: s}
  defp option(:client, v, _acc), do: wrong!(:client, v, "a string of at most 63 bytes")

  defp option(key, v, acc) when key in [:name, :library] and is_binary(v),
    do: entry(acc, key, Msgpack.str(v))

  defp option(key, v, _acc) when key in [:name, :library], do: wrong!(key, v, "a string")

  defp option(key, n, acc) when key in [:devices, :memory_bytes] and is_integer(n) and n > 0,
    do: entry(acc, key, int(key, n))

  defp option(key, v, _acc) when key in [:devices, :memory_bytes],
    do: wrong!(key, v, "a positive integer")

  defp option(:allowed, v, acc) when is_list(v) and v != [] do
    unless Enum.all?(v, &is_binary/1), do: wrong!(:allowed, v, "a list of names of devices")
    entry(acc, :allowed, Msgpack.encode!(v))
  end

  defp option(:allowed, v, _acc), do: wrong!(:allowed, v, "a list of names of devices")
  defp option(:priority, n, acc) when n in 0..7, do: entry(acc, :priority, Msgpack.int(n))
  defp option(:priority, v, _acc), do: wrong!(:priority, v, "an integer from 0 to 7")

  defp option(key, :infinity, acc) when key in [:time_limit, :step_limit], do: acc

  defp option(key, n, acc)
       when key in [:time_limit, :step_limit] and is_integer(n) and n > 0 and n <= 0xFFFFFFFFFF,
       do: entry(acc, "#{key}_ms", Msgpack.int(n))

  defp option(key, v, _acc) when key in [:time_limit, :step_limit],
    do: wrong!(key, v, "a positive number of milliseconds, or :infinity")

  defp option(:parameters, v, acc), do: entry(acc, :parameters, parameters(v))

  defp entry(acc, key, value), do: %{acc | entries: [["#{key}" | value] | acc.entries]}

  defp int(key, n) do
    if n > 0xFFFFFFFFFFFFFFFF, do: wrong!(key, n, "a positive integer of 64 bits")
    Msgpack.int(n)
  end

  defp parameters(v) when (is_map(v) and not is_struct(v)) or is_list(v) do
    unless is_map(v) or Keyword.keyword?(v), do: wrong!(:parameters, v, "a map or a keyword list")

    for {name, value} <- v,
        tensor?(value),
        do: throw({:refused, no_tensors(Msgpack.format_path(["parameters", name]))})

    Models.parameters(v, ["parameters"])
  catch
    {Msgpack, path, what} ->
      message = "#{path |> Enum.reverse() |> Msgpack.format_path()}: this cannot be sent: #{what}"
      throw({:refused, Error.exception(reason: :invalid_argument, message: message)})
  end

  defp parameters(v), do: wrong!(:parameters, v, "a map or a keyword list")

  defp tensor?(value), do: is_list(value) or is_map(value)

  defp no_tensors(where) do
    Error.exception(
      reason: :invalid_argument,
      message:
        "#{where}: a program takes parameters (booleans, numbers and strings), and no tensors: " <>
          "put what is large into a file on the scheduler's machine and give its path"
    )
  end

  @spec wrong!(atom, term, String.t()) :: no_return
  defp wrong!(key, value, wanted) do
    raise ArgumentError,
          "the option #{inspect(key)} of a job takes #{wanted}; got " <>
            inspect(value, limit: 5, printable_limit: 80)
  end
end
