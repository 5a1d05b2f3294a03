# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Msgpack do
  # MessagePack, as far as the protocol needs it.
  #
  # Encoding yields iodata. Binaries become `bin` (the port takes `bin` wherever it takes `str`, and
  # so no binary has to be searched for invalid UTF-8); atoms and the keys of maps become `str`.
  # What has no place on the wire is refused with the path to it.
  #
  # Decoding makes no atoms but true, false and nil, refers to large binaries in place, and bounds
  # the depth. skip/1 finds the end of a term without building it.
  @moduledoc false

  import Bitwise

  # Of what is read; and of what is sent, which the port bounds as well: a frame that is too deep is
  # refused with everything in it, so that must not come about. No tensor has so many dimensions.
  @max_depth 64
  @max_encoded_depth 16
  @int64_min Bitwise.bsl(-1, 63)
  @uint64_max Bitwise.bsl(1, 64) - 1

  @type path :: [String.t() | atom | non_neg_integer]

  # ---- encoding

  @spec encode(term) :: {:ok, iodata} | {:error, path, String.t()}
  def encode(term, path \\ []) do
    {:ok, encode!(term, path)}
  catch
    {__MODULE__, path, what} -> {:error, Enum.reverse(path), what}
  end

  # Throws `{GpuSched.Msgpack, reversed path, what}`: for those who encode in pieces.
  @spec encode!(term, path) :: iodata
  def encode!(term, path \\ []), do: pack(term, path, @max_encoded_depth)

  @spec refuse(path, String.t()) :: no_return
  def refuse(path, what), do: throw({__MODULE__, path, what})

  @spec str(String.t()) :: binary
  def str(s) do
    case byte_size(s) do
      n when n < 32 -> <<0xA0 + n, s::binary>>
      n when n < 0x100 -> <<0xD9, n, s::binary>>
      n when n < 0x10000 -> <<0xDA, n::16, s::binary>>
      n -> <<0xDB, n::32, s::binary>>
    end
  end

  # The header alone, and the bytes as they are: a large binary is not copied.
  @spec bin(binary) :: iodata
  def bin(b) do
    case byte_size(b) do
      n when n < 0x100 -> <<0xC4, n, b::binary>>
      n when n < 0x10000 -> [<<0xC5, n::16>> | b]
      n when n <= 0xFFFFFFFF -> [<<0xC6, n::32>> | b]
    end
  end

  @spec map_header(non_neg_integer) :: binary
  def map_header(n) when n < 16, do: <<0x80 + n>>
  def map_header(n) when n < 0x10000, do: <<0xDE, n::16>>
  def map_header(n), do: <<0xDF, n::32>>

  @spec array_header(non_neg_integer) :: binary
  def array_header(n) when n < 16, do: <<0x90 + n>>
  def array_header(n) when n < 0x10000, do: <<0xDC, n::16>>
  def array_header(n), do: <<0xDD, n::32>>

  @spec int(integer) :: binary
  def int(n) when n >= 0 and n < 0x80, do: <<n>>
  def int(n) when n >= 0 and n < 0x100, do: <<0xCC, n>>
  def int(n) when n >= 0 and n < 0x10000, do: <<0xCD, n::16>>
  def int(n) when n >= 0 and n < 0x100000000, do: <<0xCE, n::32>>
  def int(n) when n >= 0 and n <= @uint64_max, do: <<0xCF, n::64>>
  def int(n) when n < 0 and n >= -32, do: <<n::8>>
  def int(n) when n < 0 and n >= -0x80, do: <<0xD0, n::8>>
  def int(n) when n < 0 and n >= -0x8000, do: <<0xD1, n::16>>
  def int(n) when n < 0 and n >= -0x80000000, do: <<0xD2, n::32>>
  def int(n) when n < 0 and n >= @int64_min, do: <<0xD3, n::64>>

  defp pack(b, _path, _depth) when is_binary(b), do: bin(b)

  defp pack(n, path, _depth) when is_integer(n) do
    if n >= @int64_min and n <= @uint64_max,
      do: int(n),
      else: refuse(path, "an integer that does not fit in 64 bits")
  end

  defp pack(f, _path, _depth) when is_float(f), do: <<0xCB, f::float-64>>
  defp pack(nil, _path, _depth), do: <<0xC0>>
  defp pack(false, _path, _depth), do: <<0xC2>>
  defp pack(true, _path, _depth), do: <<0xC3>>
  defp pack(a, _path, _depth) when is_atom(a), do: str(Atom.to_string(a))
  defp pack([], _path, _depth), do: <<0x90>>

  defp pack(term, path, 0) when is_list(term) or is_map(term),
    do: refuse(path, "a term nested more than #{@max_encoded_depth} deep")

  defp pack([first | _] = list, path, depth) when is_number(first) do
    n = proper_length(list, path)
    pack_numbers(list, array_header(n), 0, path, depth - 1)
  end

  defp pack(list, path, depth) when is_list(list) do
    n = proper_length(list, path)
    [array_header(n) | pack_list(list, 0, path, depth - 1)]
  end

  defp pack(%{__struct__: Nx.Tensor}, path, _depth) do
    refuse(path, "an Nx tensor inside another term: the input itself has to be one (Nx.stack/1)")
  end

  defp pack(%module{}, path, _depth), do: refuse(path, struct_advice(module))

  defp pack(map, path, depth) when is_map(map) do
    [map_header(map_size(map)) | pack_map(:maps.to_list(map), path, depth - 1)]
  end

  defp pack(term, path, _depth), do: refuse(path, kind(term))

  defp pack_list([], _i, _path, _depth), do: []

  defp pack_list([x | rest], i, path, depth),
    do: [pack(x, [i | path], depth) | pack_list(rest, i + 1, path, depth)]

  # Numbers, the bulk of what is sent as lists, go straight into one binary.
  defp pack_numbers([f | rest], acc, i, path, depth) when is_float(f),
    do: pack_numbers(rest, <<acc::binary, 0xCB, f::float-64>>, i + 1, path, depth)

  defp pack_numbers([n | rest], acc, i, path, depth) when is_integer(n) and n >= 0 and n < 0x80,
    do: pack_numbers(rest, <<acc::binary, n>>, i + 1, path, depth)

  defp pack_numbers([x | rest], acc, i, path, depth) do
    x = IO.iodata_to_binary(pack(x, [i | path], depth))
    pack_numbers(rest, <<acc::binary, x::binary>>, i + 1, path, depth)
  end

  defp pack_numbers([], acc, _i, _path, _depth), do: acc

  defp pack_map([], _path, _depth), do: []

  defp pack_map([{key, value} | rest], path, depth) do
    name = key(key, path)
    [[str(name) | pack(value, [name | path], depth)] | pack_map(rest, path, depth)]
  end

  defp key(key, _path) when is_binary(key), do: key
  defp key(key, _path) when is_atom(key), do: Atom.to_string(key)

  defp key(key, path),
    do: refuse(path, "a map with a key that is neither a string nor an atom: #{kind(key)}")

  defp proper_length(list, path) do
    length(list)
  rescue
    ArgumentError -> refuse(path, "an improper list")
  end

  # How many values a term is on the wire.
  @spec count(term) :: non_neg_integer
  def count(list) when is_list(list), do: List.foldl(list, 1, &(count(&1) + &2))
  def count(%_{}), do: 1
  def count(map) when is_map(map), do: :maps.fold(fn _k, v, n -> n + 1 + count(v) end, 1, map)
  def count(_term), do: 1

  @doc false
  def struct_advice(Nx.Tensor),
    do: "an Nx tensor that was not converted: #{node()} does not have Nx; " <> tensor_advice()

  def struct_advice(module),
    do: "a struct (#{inspect(module)}): send a plain map, list, binary or number"

  @doc false
  def tensor_advice do
    ~s(send %{"datatype" => "FP32", "shape" => […], "data" => Nx.to_binary(t\)}, or call through ) <>
      "GpuSched on the node that has it"
  end

  @doc false
  def kind(term) when is_pid(term), do: "a pid"
  def kind(term) when is_function(term), do: "a function"
  def kind(term) when is_tuple(term), do: "a tuple (lists and maps can be sent)"
  def kind(term) when is_reference(term), do: "a reference"
  def kind(term) when is_port(term), do: "a port"
  def kind(term) when is_binary(term), do: "a string"
  def kind(term) when is_bitstring(term), do: "a bitstring that is not whole bytes"
  def kind(term) when is_number(term), do: "a number"
  def kind(term) when is_list(term), do: "a list"
  def kind(term) when is_map(term), do: "a map"
  def kind(nil), do: "nil"
  def kind(term) when is_atom(term), do: "an atom"

  # "inputs.text[3]"
  @spec format_path(path) :: String.t()
  def format_path(path) do
    path
    |> Enum.map(fn
      i when is_integer(i) -> "[#{i}]"
      name when is_atom(name) -> [".", Atom.to_string(name)]
      name when is_binary(name) -> [".", name]
      other -> [".", inspect(other, limit: 5)]
    end)
    |> IO.iodata_to_binary()
    |> String.trim_leading(".")
  end

  # ---- decoding

  @spec decode(binary) :: {:ok, term, rest :: binary} | {:error, String.t()}
  def decode(binary) when is_binary(binary) do
    {term, rest} = unpack(binary, @max_depth)
    {:ok, term, rest}
  catch
    {__MODULE__, what} -> {:error, what}
  end

  defp unpack(<<n, rest::binary>>, _d) when n < 0x80, do: {n, rest}

  defp unpack(<<h, rest::binary>>, d) when h >= 0xA0 and h < 0xC0 do
    n = h - 0xA0

    case rest do
      <<s::binary-size(n), rest::binary>> -> {s, rest}
      _ -> cut_short(d)
    end
  end

  defp unpack(<<h, rest::binary>>, d) when h < 0x90, do: unpack_map(h - 0x80, rest, d, [])
  defp unpack(<<h, rest::binary>>, d) when h < 0xA0, do: unpack_list(h - 0x90, rest, d, [])
  defp unpack(<<h, rest::binary>>, _d) when h >= 0xE0, do: {h - 0x100, rest}
  defp unpack(<<0xC0, rest::binary>>, _d), do: {nil, rest}
  defp unpack(<<0xC2, rest::binary>>, _d), do: {false, rest}
  defp unpack(<<0xC3, rest::binary>>, _d), do: {true, rest}
  defp unpack(<<0xC4, n, b::binary-size(n), rest::binary>>, _d), do: {b, rest}
  defp unpack(<<0xC5, n::16, b::binary-size(n), rest::binary>>, _d), do: {b, rest}
  defp unpack(<<0xC6, n::32, b::binary-size(n), rest::binary>>, _d), do: {b, rest}
  defp unpack(<<0xCA, f::float-32, rest::binary>>, _d), do: {f, rest}

  defp unpack(<<0xCA, bits::32, rest::binary>>, _d),
    do: {not_finite(bits >>> 31, bits &&& 0x7FFFFF), rest}

  defp unpack(<<0xCB, f::float-64, rest::binary>>, _d), do: {f, rest}

  defp unpack(<<0xCB, bits::64, rest::binary>>, _d),
    do: {not_finite(bits >>> 63, bits &&& 0xFFFFFFFFFFFFF), rest}

  defp unpack(<<0xCC, n, rest::binary>>, _d), do: {n, rest}
  defp unpack(<<0xCD, n::16, rest::binary>>, _d), do: {n, rest}
  defp unpack(<<0xCE, n::32, rest::binary>>, _d), do: {n, rest}
  defp unpack(<<0xCF, n::64, rest::binary>>, _d), do: {n, rest}
  defp unpack(<<0xD0, n::signed-8, rest::binary>>, _d), do: {n, rest}
  defp unpack(<<0xD1, n::signed-16, rest::binary>>, _d), do: {n, rest}
  defp unpack(<<0xD2, n::signed-32, rest::binary>>, _d), do: {n, rest}
  defp unpack(<<0xD3, n::signed-64, rest::binary>>, _d), do: {n, rest}
  defp unpack(<<0xD9, n, s::binary-size(n), rest::binary>>, _d), do: {s, rest}
  defp unpack(<<0xDA, n::16, s::binary-size(n), rest::binary>>, _d), do: {s, rest}
  defp unpack(<<0xDB, n::32, s::binary-size(n), rest::binary>>, _d), do: {s, rest}
  defp unpack(<<0xDC, n::16, rest::binary>>, d), do: unpack_list(n, rest, d, [])
  defp unpack(<<0xDD, n::32, rest::binary>>, d), do: unpack_list(n, rest, d, [])
  defp unpack(<<0xDE, n::16, rest::binary>>, d), do: unpack_map(n, rest, d, [])
  defp unpack(<<0xDF, n::32, rest::binary>>, d), do: unpack_map(n, rest, d, [])

  defp unpack(<<h, _::binary>>, _d) when h == 0xC1 or h in 0xC7..0xC9 or h in 0xD4..0xD8,
    do: throw({__MODULE__, "the type 0x#{Integer.to_string(h, 16)}, which is not used here"})

  defp unpack(_binary, d), do: cut_short(d)

  defp unpack_list(0, rest, _d, acc), do: {:lists.reverse(acc), rest}
  defp unpack_list(_n, _rest, 0, _acc), do: too_deep()

  defp unpack_list(n, rest, d, acc) do
    {x, rest} = unpack(rest, d - 1)
    unpack_list(n - 1, rest, d, [x | acc])
  end

  defp unpack_map(0, rest, _d, acc), do: {:maps.from_list(acc), rest}
  defp unpack_map(_n, _rest, 0, _acc), do: too_deep()

  defp unpack_map(n, rest, d, acc) do
    {k, rest} = unpack(rest, d - 1)
    {v, rest} = unpack(rest, d - 1)
    unpack_map(n - 1, rest, d, [{k, v} | acc])
  end

  # A decoded term whose small strings, the keys among them, do not refer to the binary it was decoded
  # from. What lies in lists stays as it is.
  @spec detach(term) :: term
  def detach(map) when is_map(map),
    do: for({key, value} <- map, into: %{}, do: {detach(key), detach(value)})

  def detach(s) when is_binary(s) and byte_size(s) <= 64, do: :binary.copy(s)
  def detach(other), do: other

  # As Nx writes them.
  defp not_finite(0, 0), do: :infinity
  defp not_finite(1, 0), do: :neg_infinity
  defp not_finite(_sign, _mantissa), do: :nan

  defp cut_short(_d), do: throw({__MODULE__, "a term that is cut short"})
  defp too_deep, do: throw({__MODULE__, "a term nested more than #{@max_depth} deep"})

  # ---- skipping

  # What follows the first term of `binary`; :error where that is cut short or no term.
  @spec skip(binary) :: binary | :error
  def skip(binary), do: skip(binary, 1)

  defp skip(rest, 0), do: rest
  defp skip(<<h, rest::binary>>, n) when h < 0x80, do: skip(rest, n - 1)
  defp skip(<<5::3, len::5, _::binary-size(len), rest::binary>>, n), do: skip(rest, n - 1)
  defp skip(<<8::4, len::4, rest::binary>>, n), do: skip(rest, n - 1 + 2 * len)
  defp skip(<<9::4, len::4, rest::binary>>, n), do: skip(rest, n - 1 + len)
  defp skip(<<0xC0, rest::binary>>, n), do: skip(rest, n - 1)
  defp skip(<<0xC2, rest::binary>>, n), do: skip(rest, n - 1)
  defp skip(<<0xC3, rest::binary>>, n), do: skip(rest, n - 1)
  defp skip(<<0xC4, len, _::binary-size(len), rest::binary>>, n), do: skip(rest, n - 1)
  defp skip(<<0xC5, len::16, _::binary-size(len), rest::binary>>, n), do: skip(rest, n - 1)
  defp skip(<<0xC6, len::32, _::binary-size(len), rest::binary>>, n), do: skip(rest, n - 1)
  defp skip(<<0xCA, _::32, rest::binary>>, n), do: skip(rest, n - 1)
  defp skip(<<0xCB, _::64, rest::binary>>, n), do: skip(rest, n - 1)
  defp skip(<<0xCC, _, rest::binary>>, n), do: skip(rest, n - 1)
  defp skip(<<0xCD, _::16, rest::binary>>, n), do: skip(rest, n - 1)
  defp skip(<<0xCE, _::32, rest::binary>>, n), do: skip(rest, n - 1)
  defp skip(<<0xCF, _::64, rest::binary>>, n), do: skip(rest, n - 1)
  defp skip(<<0xD0, _, rest::binary>>, n), do: skip(rest, n - 1)
  defp skip(<<0xD1, _::16, rest::binary>>, n), do: skip(rest, n - 1)
  defp skip(<<0xD2, _::32, rest::binary>>, n), do: skip(rest, n - 1)
  defp skip(<<0xD3, _::64, rest::binary>>, n), do: skip(rest, n - 1)
  defp skip(<<0xD9, len, _::binary-size(len), rest::binary>>, n), do: skip(rest, n - 1)
  defp skip(<<0xDA, len::16, _::binary-size(len), rest::binary>>, n), do: skip(rest, n - 1)
  defp skip(<<0xDB, len::32, _::binary-size(len), rest::binary>>, n), do: skip(rest, n - 1)
  defp skip(<<0xDC, len::16, rest::binary>>, n), do: skip(rest, n - 1 + len)
  defp skip(<<0xDD, len::32, rest::binary>>, n), do: skip(rest, n - 1 + len)
  defp skip(<<0xDE, len::16, rest::binary>>, n), do: skip(rest, n - 1 + 2 * len)
  defp skip(<<0xDF, len::32, rest::binary>>, n), do: skip(rest, n - 1 + 2 * len)
  defp skip(<<h, rest::binary>>, n) when h >= 0xE0, do: skip(rest, n - 1)
  defp skip(_binary, _n), do: :error
end
