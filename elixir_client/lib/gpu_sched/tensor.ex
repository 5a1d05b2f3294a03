# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Tensor do
  # Tensors on their way in, to what the wire takes, and out, to what the caller asked for.
  @moduledoc false

  import Bitwise

  alias GpuSched.{Error, Msgpack, NxBridge, Pieces}

  # As Nx writes types: {:f, 32}. BYTES has no fixed size.
  @datatypes [
    {"BOOL", {:u, 8}},
    {"UINT8", {:u, 8}},
    {"UINT16", {:u, 16}},
    {"UINT32", {:u, 32}},
    {"UINT64", {:u, 64}},
    {"INT8", {:s, 8}},
    {"INT16", {:s, 16}},
    {"INT32", {:s, 32}},
    {"INT64", {:s, 64}},
    {"FP16", {:f, 16}},
    {"BF16", {:bf, 16}},
    {"FP32", {:f, 32}},
    {"FP64", {:f, 64}}
  ]

  def datatypes, do: @datatypes

  # ---- in

  # Nx tensors become plain maps; everything else stays as it is, and is checked when it is encoded.
  @spec plain(term, Msgpack.path()) :: term
  def plain(%{__struct__: Nx.Tensor} = tensor, path) do
    unless NxBridge.available?(), do: Msgpack.refuse(path, Msgpack.struct_advice(Nx.Tensor))

    # One that was sent here as it is may live on the device of another node.
    try do
      NxBridge.to_plain(tensor)
    rescue
      e ->
        Msgpack.refuse(
          path,
          "an Nx tensor that cannot be converted on #{node()}: #{Exception.message(e)}; " <>
            Msgpack.tensor_advice()
        )
    end
  end

  def plain(other, _path), do: other

  # `{:tensor, datatype, shape, data}` for a map, `{:nested, term}` for anything else. Throws (see
  # Msgpack.refuse/2) where it can be seen here that it is no tensor.
  @spec read(term, Msgpack.path()) ::
          {:tensor, String.t(), [non_neg_integer], binary | list | Pieces.t()} | {:nested, term}
  def read(%{__struct__: _} = struct, path) do
    case plain(struct, path) do
      %{__struct__: module} -> Msgpack.refuse(path, Msgpack.struct_advice(module))
      map -> read(map, path)
    end
  end

  def read(%{"datatype" => datatype, "shape" => shape, "data" => data} = map, path)
      when map_size(map) == 3,
      do: read_map(datatype, shape, data, path)

  def read(%{datatype: datatype, shape: shape, data: data} = map, path)
      when map_size(map) == 3,
      do: read_map(datatype, shape, data, path)

  def read(map, path) when is_map(map) do
    Msgpack.refuse(
      path,
      ~s(a map that is not a tensor: it takes "datatype", "shape" and "data", and has ) <>
        inspect(Map.keys(map), limit: 8)
    )
  end

  def read(other, _path), do: {:nested, other}

  defp read_map(datatype, shape, data, path) do
    datatype = if is_atom(datatype), do: Atom.to_string(datatype), else: datatype
    shape = if is_tuple(shape), do: Tuple.to_list(shape), else: shape

    unless is_binary(datatype), do: Msgpack.refuse(["datatype" | path], Msgpack.kind(datatype))

    unless sizes?(shape),
      do: Msgpack.refuse(["shape" | path], "a shape that is not a list of sizes")

    unless is_binary(data) or is_list(data) or is_struct(data, Pieces),
      do: Msgpack.refuse(["data" | path], Msgpack.kind(data) <> " where a binary belongs")

    {:tensor, datatype, shape, data}
  end

  defp sizes?([n | rest]) when is_integer(n) and n >= 0 and n < 1 <<< 62, do: sizes?(rest)
  defp sizes?(rest), do: rest == []

  # ---- out

  # The outputs of a result or a part, as `output:` has it.
  @spec outputs(map, :binary | :list | :nx) :: {:ok, map} | {:error, Error.t()}
  def outputs(%{"outputs" => outputs} = result, output) when is_map(outputs) do
    {:ok,
     %{result | "outputs" => Map.new(outputs, fn {name, t} -> {name, output(t, output)} end)}}
  catch
    # A type or a shape that Nx, or this node's backend of it, does not take.
    kind, reason when output == :nx ->
      {:error,
       Error.exception(
         reason: :not_supported,
         message:
           "the result does not become an Nx tensor: " <>
             Exception.format_banner(kind, reason, __STACKTRACE__) <>
             "; ask for output: :list or :binary"
       )}
  end

  def outputs(result, _output), do: {:ok, result}

  defp output(%{"data" => data} = tensor, :binary) when is_binary(data),
    do: %{tensor | "data" => settle(data)}

  defp output(%{"data" => data} = tensor, :binary) when is_list(data),
    do: %{tensor | "data" => Enum.map(data, &settle/1)}

  defp output(tensor, :list), do: to_list(tensor)
  defp output(%{"datatype" => "BYTES"} = tensor, :nx), do: to_list(tensor)
  defp output(tensor, :nx), do: NxBridge.from_plain(tensor)
  defp output(tensor, _output), do: tensor

  # A small binary that refers to a large one would keep that alive for as long as it lives itself.
  defp settle(data) do
    if :binary.referenced_byte_size(data) > 2 * byte_size(data) + 1024,
      do: :binary.copy(data),
      else: data
  end

  @spec to_list(map) :: term
  def to_list(%{"datatype" => "BYTES", "shape" => shape, "data" => data}),
    do: nest(Enum.map(data, &settle/1), shape)

  def to_list(%{"datatype" => datatype, "shape" => shape, "data" => data}),
    do: nest(numbers(datatype, data), shape)

  defp nest([x], []), do: x
  defp nest(list, [_n]), do: list
  defp nest(_list, [0 | _shape]), do: []

  defp nest(list, [n | shape]) do
    list
    |> Enum.chunk_every(max(div(length(list), n), 1))
    |> fill(n)
    |> Enum.map(&nest(&1, shape))
  end

  # Rows without elements leave nothing to chunk.
  defp fill([], n), do: List.duplicate([], n)
  defp fill(rows, _n), do: rows

  defp numbers("FP32", data), do: fp32(data, [])
  defp numbers("FP64", data), do: fp64(data, [])
  defp numbers("FP16", data), do: fp16(data, [])
  defp numbers("BF16", data), do: bf16(data, [])
  defp numbers("BOOL", data), do: for(<<b <- data>>, do: b != 0)

  for {name, {kind, bits}} <- @datatypes, kind in [:u, :s], name != "BOOL" do
    sign = if kind == :u, do: :unsigned, else: :signed

    defp numbers(unquote(name), data),
      do: for(<<n::little-unquote(Macro.var(sign, nil))-size(unquote(bits)) <- data>>, do: n)
  end

  defp fp32(<<f::float-little-32, rest::binary>>, acc), do: fp32(rest, [f | acc])

  defp fp32(<<bits::little-32, rest::binary>>, acc),
    do: fp32(rest, [not_finite(bits >>> 31, bits &&& 0x7FFFFF) | acc])

  defp fp32(_rest, acc), do: :lists.reverse(acc)

  defp fp64(<<f::float-little-64, rest::binary>>, acc), do: fp64(rest, [f | acc])

  defp fp64(<<bits::little-64, rest::binary>>, acc),
    do: fp64(rest, [not_finite(bits >>> 63, bits &&& 0xFFFFFFFFFFFFF) | acc])

  defp fp64(_rest, acc), do: :lists.reverse(acc)

  defp fp16(<<f::float-little-16, rest::binary>>, acc), do: fp16(rest, [f | acc])

  defp fp16(<<bits::little-16, rest::binary>>, acc),
    do: fp16(rest, [not_finite(bits >>> 15, bits &&& 0x3FF) | acc])

  defp fp16(_rest, acc), do: :lists.reverse(acc)

  # The upper half of an fp32.
  defp bf16(<<bits::little-16, rest::binary>>, acc) do
    case <<bits::16, 0::16>> do
      <<f::float-32>> -> bf16(rest, [f | acc])
      _ -> bf16(rest, [not_finite(bits >>> 15, bits &&& 0x7F) | acc])
    end
  end

  defp bf16(_rest, acc), do: :lists.reverse(acc)

  defp not_finite(0, 0), do: :infinity
  defp not_finite(1, 0), do: :neg_infinity
  defp not_finite(_sign, _mantissa), do: :nan
end
