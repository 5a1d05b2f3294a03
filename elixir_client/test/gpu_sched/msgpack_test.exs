# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.MsgpackTest do
  use ExUnit.Case, async: true

  alias GpuSched.Msgpack

  defp encode(term) do
    {:ok, iodata} = Msgpack.encode(term)
    IO.iodata_to_binary(iodata)
  end

  defp roundtrip(term) do
    {:ok, decoded, ""} = term |> encode() |> Msgpack.decode()
    decoded
  end

  test "integers take the shortest form and come back" do
    for {n, size} <- [
          {0, 1},
          {127, 1},
          {128, 2},
          {255, 2},
          {256, 3},
          {65_535, 3},
          {65_536, 5},
          {4_294_967_295, 5},
          {4_294_967_296, 9},
          {18_446_744_073_709_551_615, 9},
          {-1, 1},
          {-32, 1},
          {-33, 2},
          {-128, 2},
          {-129, 3},
          {-32_768, 3},
          {-32_769, 5},
          {-2_147_483_648, 5},
          {-2_147_483_649, 9},
          {-9_223_372_036_854_775_808, 9}
        ] do
      assert byte_size(encode(n)) == size
      assert roundtrip(n) == n
    end
  end

  test "binaries are bin, atoms and keys are str, and none of them comes back as an atom" do
    assert <<0xC4, 2, "hi">> = encode("hi")
    assert <<0xA2, "hi">> = encode(:hi)
    assert roundtrip(%{true => nil, a: :b}) == %{"a" => "b", "true" => nil}
    assert roundtrip([true, false, nil]) == [true, false, nil]
  end

  test "lengths around each limit of the headers" do
    for n <- [0, 15, 16, 31, 32, 255, 256, 65_535, 65_536] do
      assert roundtrip(String.duplicate("x", n)) == String.duplicate("x", n)
      assert roundtrip(List.duplicate(1, n)) == List.duplicate(1, n)
      assert roundtrip(List.duplicate("a", n)) == List.duplicate("a", n)
      map = Map.new(1..n//1, &{Integer.to_string(&1), &1})
      assert roundtrip(map) == map

      assert {:ok, s, ""} =
               n |> then(&String.duplicate("s", &1)) |> Msgpack.str() |> Msgpack.decode()

      assert byte_size(s) == n
    end
  end

  test "floats, and what is none" do
    assert roundtrip([1.5, -0.0, 1.0e300]) == [1.5, -0.0, 1.0e300]
    assert {:ok, 0.5, ""} = Msgpack.decode(<<0xCA, 0.5::float-32>>)
    assert {:ok, :infinity, ""} = Msgpack.decode(<<0xCA, 0x7F800000::32>>)
    assert {:ok, :neg_infinity, ""} = Msgpack.decode(<<0xCB, 0xFFF0000000000000::64>>)
    assert {:ok, :nan, ""} = Msgpack.decode(<<0xCB, 0x7FF8000000000000::64>>)
  end

  test "lists that begin with numbers may hold anything" do
    assert roundtrip([1, 2.5, -7, 300, "x", [1], nil]) == [1, 2.5, -7, 300, "x", [1], nil]
  end

  test "a large binary is referred to, not copied, on both ways" do
    large = :binary.copy(<<1>>, 100_000)
    {:ok, iodata} = Msgpack.encode(%{"data" => large})
    assert contains?(iodata, large)

    frame = IO.iodata_to_binary(iodata)
    {:ok, %{"data" => data}, ""} = Msgpack.decode(frame)
    assert :binary.referenced_byte_size(data) == byte_size(frame)
  end

  defp contains?(iodata, binary) when is_list(iodata) do
    case iodata do
      [a | b] -> contains?(a, binary) or contains?(b, binary)
      [] -> false
    end
  end

  defp contains?(x, binary), do: :erts_debug.same(x, binary)

  test "what has no place on the wire is refused with its path" do
    refused = [
      {%{"a" => [1, self()]}, ["a", 1], "a pid"},
      {%{a: %{b: fn -> 1 end}}, ["a", "b"], "a function"},
      {[{1, 2}], [0], "a tuple"},
      {%{"r" => make_ref()}, ["r"], "a reference"},
      {[1, 2, {3}], [2], "a tuple"},
      {[<<1::3>>], [0], "a bitstring"},
      {[1 | 2], [], "improper"},
      {%{"x" => 18_446_744_073_709_551_616}, ["x"], "64 bits"},
      {%{1 => 2}, [], "a number"},
      {%{"u" => URI.parse("http://x")}, ["u"], "URI"}
    ]

    for {term, path, what} <- refused do
      assert {:error, ^path, text} = Msgpack.encode(term)
      assert text =~ what
    end
  end

  test "depth is bounded both ways" do
    deep = Enum.reduce(1..100, 1, fn _, x -> [x] end)
    assert {:error, _path, text} = Msgpack.encode([deep, "x"] |> Enum.reverse())
    assert text =~ "deep"
    assert {:error, text} = Msgpack.decode(:binary.copy(<<0x91>>, 100) <> <<1>>)
    assert text =~ "deep"
  end

  test "what is cut short or has an unused type is an error, anywhere" do
    whole = encode(%{"a" => [1, 2.5, "text", nil], "b" => %{"c" => 70_000}})

    for n <- 0..(byte_size(whole) - 1) do
      cut = binary_part(whole, 0, n)
      assert {:error, _} = Msgpack.decode(cut)
      assert Msgpack.skip(cut) == :error
    end

    for type <- [0xC1, 0xC7, 0xC8, 0xC9, 0xD4, 0xD8] do
      assert {:error, _} = Msgpack.decode(<<type, 0, 0, 0>>)
      assert Msgpack.skip(<<type, 0, 0, 0>>) == :error
    end

    # A length that lies does not make anything be allocated.
    assert {:error, _} = Msgpack.decode(<<0xDD, 0xFFFFFFFF::32, 1>>)
    assert Msgpack.skip(<<0xDD, 0xFFFFFFFF::32, 1>>) == :error
  end

  test "skipping ends where decoding ends, for random terms" do
    :rand.seed(:exsss, {1, 2, 3})

    for _ <- 1..500 do
      term = random(4)
      frame = encode(term) <> "rest"
      assert {:ok, decoded, "rest"} = Msgpack.decode(frame)
      assert decoded == term
      assert Msgpack.skip(frame) == "rest"
    end
  end

  defp random(0), do: Enum.random([nil, true, 1, -5, 1.25, "s", :rand.uniform(1_000_000)])

  defp random(depth) do
    case :rand.uniform(4) do
      1 -> for _ <- 1..:rand.uniform(20), do: random(depth - 1)
      2 -> Map.new(1..:rand.uniform(20), &{Integer.to_string(&1), random(depth - 1)})
      3 -> :rand.bytes(:rand.uniform(300))
      4 -> random(0)
    end
  end
end
