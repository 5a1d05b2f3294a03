# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Models do
  # The options of a model, from what the user wrote to what goes over the wire.
  @moduledoc false

  alias GpuSched.Msgpack

  @strings [:path, :engine, :library]
  @numbers [:max_batch_requests, :max_batch_units, :max_request_units, :queue_limit]
  # What goes over the wire.
  @most 0xFFFFFFFFFFFFFFFF
  @options @strings ++ @numbers ++ [:step_limit, :parameters, :devices]

  @type spec :: {name :: String.t(), params :: iodata}

  def options, do: @options

  # The models of start_link/1.
  @spec specs!(term) :: [spec]
  def specs!(models) when is_list(models) do
    specs = Enum.map(models, &spec!/1)
    names = Enum.map(specs, &elem(&1, 0))

    case names -- Enum.uniq(names) do
      [] -> specs
      [name | _] -> raise ArgumentError, "the model #{inspect(name)} is there twice in models:"
    end
  end

  def specs!(other),
    do: raise(ArgumentError, "the option :models takes a list; got #{inspect(other, limit: 5)}")

  defp spec!(model) when is_list(model) do
    unless Keyword.keyword?(model), do: no_model!(model)
    {name, opts} = Keyword.pop(model, :name)
    unless is_binary(name), do: no_model!(model)
    {name, params!(name, opts)}
  end

  defp spec!(%{__struct__: _} = model), do: no_model!(model)
  defp spec!(model) when is_map(model), do: model |> Map.to_list() |> spec!()

  defp spec!(other), do: no_model!(other)

  @spec no_model!(term) :: no_return
  defp no_model!(model) do
    raise ArgumentError,
          ~s(a model is a keyword list or a map with a :name, as [name: "minilm", path: "/models/…"]; ) <>
            "got #{inspect(model, limit: 10)}"
  end

  # The map that `load` takes.
  @spec params!(String.t(), keyword) :: iodata
  def params!(name, opts) do
    entries = for {key, value} <- opts, value != nil, do: entry!(key, value)

    IO.iodata_to_binary([
      Msgpack.map_header(length(entries) + 1),
      Msgpack.str("name"),
      Msgpack.str(name) | entries
    ])
  end

  defp entry!(key, value) when key in @strings and is_binary(value),
    do: [Msgpack.str(Atom.to_string(key)), Msgpack.str(value)]

  defp entry!(key, value) when key in @numbers and value in 1..@most,
    do: [Msgpack.str(Atom.to_string(key)), Msgpack.int(value)]

  # On the wire 0 is none.
  defp entry!(:step_limit, :infinity), do: entry!(:step_limit_ms, 0)
  defp entry!(:step_limit, ms) when ms in 1..@most, do: entry!(:step_limit_ms, ms)
  defp entry!(:step_limit_ms, ms), do: [Msgpack.str("step_limit_ms"), Msgpack.int(ms)]

  defp entry!(:devices, value) when is_list(value) do
    unless Enum.all?(value, &is_binary/1), do: wrong!(:devices, value, "a list of names")
    [Msgpack.str("devices"), Msgpack.encode!(value)]
  end

  defp entry!(:parameters, value), do: [Msgpack.str("parameters"), parameters!(value)]
  defp entry!(key, value) when key in @strings, do: wrong!(key, value, "a string")

  defp entry!(key, value) when key in @numbers,
    do: wrong!(key, value, "a positive integer of 64 bits")

  defp entry!(:devices, value), do: wrong!(:devices, value, "a list of names")

  defp entry!(:step_limit, value),
    do: wrong!(:step_limit, value, "milliseconds, or :infinity")

  defp entry!(key, _value) do
    raise ArgumentError,
          "unknown option #{inspect(key)} of a model; there are #{Enum.map_join(@options, ", ", &inspect/1)}"
  end

  @spec wrong!(atom, term, String.t()) :: no_return
  defp wrong!(key, value, wanted) do
    raise ArgumentError,
          "the option #{inspect(key)} of a model takes #{wanted}; got #{inspect(value, limit: 5)}"
  end

  defp parameters!(value) do
    unless (is_map(value) and not is_struct(value)) or Keyword.keyword?(value),
      do: wrong!(:parameters, value, "a map or a keyword list")

    for {name, v} <- value,
        not ((is_atom(name) or is_binary(name)) and
               (is_binary(v) or is_number(v) or (is_atom(v) and v != nil))) do
      wrong!(:parameters, [{name, v}], "a string, a number or a boolean for each name")
    end

    parameters(value)
  end

  # Those of a model or of a request: name → boolean, number or string.
  @spec parameters(map | keyword, Msgpack.path()) :: iodata
  def parameters(parameters, path \\ []) do
    map = Map.new(parameters, fn {name, value} -> {to_name(name, path), value} end)
    Msgpack.encode!(map, path)
  end

  defp to_name(name, _path) when is_binary(name), do: name
  defp to_name(name, _path) when is_atom(name), do: Atom.to_string(name)
  defp to_name(name, path), do: Msgpack.refuse(path, "the name #{inspect(name)}")
end
