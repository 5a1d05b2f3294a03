# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Load.Payload do
  # What is sent: a few dozen inputs, made before the run and then taken in turn, so that making them
  # does not take time from sending them.
  @moduledoc false

  import Bitwise

  alias GpuSched.Json

  # Of all of them together.
  @most_bytes 64 * 1024 * 1024

  @words ~w(a the of and to in is was it for on with as river stone light paper market window
            engine garden winter signal people morning question answer measure carry begin follow
            slowly often never always quiet bright narrow simple)

  @sizes %{
    "BOOL" => 1,
    "UINT8" => 1,
    "INT8" => 1,
    "UINT16" => 2,
    "INT16" => 2,
    "FP16" => 2,
    "BF16" => 2,
    "UINT32" => 4,
    "INT32" => 4,
    "FP32" => 4,
    "UINT64" => 8,
    "INT64" => 8,
    "FP64" => 8
  }

  @type source ::
          :model | map | [map] | (non_neg_integer -> term) | {:file, Path.t()}

  # At most `n` inputs; `describe` answers the model's description, where that is asked for.
  @spec pool!(source, pos_integer, pos_integer, integer, (() -> map)) :: tuple
  def pool!(source, n, variable, seed, describe) do
    case make(source, n, variable, seed, describe) do
      [] -> raise ArgumentError, "there is nothing to send: the payload is empty"
      pool -> List.to_tuple(pool)
    end
  end

  defp make(:model, n, variable, seed, describe) do
    specs = needed(describe.()["inputs"])
    bytes = specs |> Enum.map(&size(&1, variable)) |> Enum.sum()
    n = n |> min(div(@most_bytes, max(bytes, 1))) |> max(1)
    random = :rand.seed_s(:exsss, seed)
    {pool, _random} = Enum.map_reduce(1..n, random, fn _, r -> inputs(specs, variable, r) end)
    pool
  end

  defp make({:file, path}, n, _variable, _seed, _describe), do: path |> read!() |> Enum.take(n)

  defp make(fun, n, _variable, _seed, _describe) when is_function(fun, 1),
    do: Enum.map(0..(n - 1), fun)

  defp make(list, _n, _variable, _seed, _describe) when is_list(list), do: list
  defp make(map, _n, _variable, _seed, _describe) when is_map(map), do: [map]

  # ---- from the description of a model

  # Where none has to be there they stand for each other, and the first is what people have (an encoder
  # takes text, or ids).
  defp needed(specs) do
    case for spec <- specs, spec["optional"] != true, do: spec do
      [] -> Enum.take(specs, 1)
      needed -> needed
    end
  end

  defp inputs(specs, variable, random) do
    {pairs, random} =
      Enum.map_reduce(specs, random, fn spec, random ->
        {tensor, random} = tensor(spec, variable, random)
        {{spec["name"], tensor}, random}
      end)

    {Map.new(pairs), random}
  end

  defp size(spec, variable),
    do: elements(shape(spec, variable)) * Map.get(@sizes, spec["datatype"], 64)

  defp shape(spec, variable), do: Enum.map(spec["shape"], &if(&1 < 0, do: variable, else: &1))
  defp elements(shape), do: Enum.product(shape)

  defp tensor(%{"datatype" => "BYTES"} = spec, variable, random) do
    shape = shape(spec, variable)
    {texts, random} = repeat(elements(shape), random, &sentence/1)
    {reshape(texts, shape), random}
  end

  defp tensor(%{"datatype" => datatype} = spec, variable, random) do
    shape = shape(spec, variable)
    n = elements(shape)
    {bytes, random} = :rand.bytes_s(n, random)
    data = for <<b <- bytes>>, into: <<>>, do: element(datatype, b)
    {%{"datatype" => datatype, "shape" => shape, "data" => data}, random}
  end

  # Any bits make a number, but not any number is one that a model expects: integers are from 0 to
  # 127, floats from 0.5 to 1.
  defp element("BOOL", b), do: <<b &&& 1>>
  defp element("FP16", b), do: <<0x3800 ||| b <<< 2::little-16>>
  defp element("BF16", b), do: <<0x3F00 ||| b >>> 1::little-16>>
  defp element("FP32", b), do: <<0.5 + b / 512::float-little-32>>
  defp element("FP64", b), do: <<0.5 + b / 512::float-little-64>>
  defp element(datatype, b), do: <<b &&& 127::little-size(@sizes[datatype])-unit(8)>>

  defp sentence(random) do
    {n, random} = :rand.uniform_s(12, random)
    {words, random} = repeat(n + 3, random, &word/1)
    {Enum.join(words, " "), random}
  end

  defp word(random) do
    {n, random} = :rand.uniform_s(length(@words), random)
    {Enum.at(@words, n - 1), random}
  end

  defp repeat(0, random, _fun), do: {[], random}
  defp repeat(n, random, fun), do: Enum.map_reduce(1..n, random, fn _, r -> fun.(r) end)

  defp reshape([value], []), do: value
  defp reshape(values, [_]), do: values

  defp reshape(values, [_ | inner]),
    do: values |> Enum.chunk_every(elements(inner)) |> Enum.map(&reshape(&1, inner))

  # ---- from a file

  # A line of JSON for each: a map from the names of inputs to tensors.
  defp read!(path) do
    path
    |> File.stream!()
    |> Stream.with_index(1)
    |> Stream.reject(fn {line, _number} -> String.trim(line) == "" end)
    |> Stream.map(fn {line, number} ->
      case Json.decode(line) do
        {:ok, map} when is_map(map) ->
          map

        {:ok, other} ->
          raise ArgumentError,
                "#{path}, line #{number}: a map of inputs belongs here; got #{inspect(other, limit: 5)}"

        {:error, what} ->
          raise ArgumentError, "#{path}, line #{number} is no JSON: #{what}"
      end
    end)
  end
end
