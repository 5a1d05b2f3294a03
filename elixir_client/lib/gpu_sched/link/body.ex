# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Link.Body do
  # The arguments of a large request, for the way over a link: first a term in which something stands for
  # each large binary of the inputs, then those binaries as they are. So none of them is copied, on either
  # side, to become part of a term.
  @moduledoc false

  alias GpuSched.Pieces

  # A binary below this is left in its term.
  @large 64 * 1024

  # What is sent, and how long the term is with which it begins.
  @spec pack(list) :: {[binary], pos_integer}
  def pack([name, model, inputs, opts]) do
    {inputs, {_n, binaries}} = take_out(inputs)
    head = :erlang.term_to_binary([name, model, inputs, opts])
    {[head | :lists.reverse(binaries)], byte_size(head)}
  end

  defp take_out(inputs) when is_map(inputs) and not is_struct(inputs) do
    {inputs, acc} = Enum.map_reduce(inputs, {0, []}, &take_out/2)
    {Map.new(inputs), acc}
  end

  defp take_out(inputs), do: {inputs, {0, []}}

  defp take_out({name, value}, {n, binaries} = acc) do
    case data(value) do
      {key, data} when is_binary(data) and byte_size(data) >= @large ->
        {{name, %{value | key => {:gs_hole, n, byte_size(data)}}}, {n + 1, [data | binaries]}}

      _ ->
        {{name, value}, acc}
    end
  end

  defp data(%{"data" => data}), do: {"data", data}
  defp data(%{data: data} = value) when not is_struct(value), do: {:data, data}
  defp data(_value), do: nil

  # The arguments again, from the pieces that came. No piece has bytes of two binaries. Raises an
  # ArgumentError where the sizes do not agree.
  @spec unpack([binary], pos_integer) :: list
  def unpack(pieces, head) do
    {head, pieces} = split(pieces, head, [])
    [name, model, inputs, opts] = head |> IO.iodata_to_binary() |> :erlang.binary_to_term()
    [name, model, put_in_place(inputs, pieces), opts]
  end

  defp put_in_place(inputs, pieces) when is_map(inputs) and not is_struct(inputs) do
    holes =
      for {name, value} <- inputs,
          {key, {:gs_hole, n, size}} <- [data(value)],
          do: {n, name, key, size}

    {inputs, rest} =
      for {_n, name, key, size} <- Enum.sort(holes), reduce: {inputs, pieces} do
        {inputs, pieces} ->
          {list, pieces} = split(pieces, size, [])
          value = %{Map.fetch!(inputs, name) | key => %Pieces{list: list, size: size}}
          {%{inputs | name => value}, pieces}
      end

    if rest != [], do: raise(ArgumentError, "more has come than the inputs hold")
    inputs
  end

  defp put_in_place(inputs, []), do: inputs

  defp split(rest, 0, taken), do: {:lists.reverse(taken), rest}

  defp split([piece | rest], left, taken) when byte_size(piece) <= left,
    do: split(rest, left - byte_size(piece), [piece | taken])

  defp split(_pieces, left, _taken),
    do: raise(ArgumentError, "#{left} bytes of what a piece should end with are missing")
end
