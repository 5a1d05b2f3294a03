# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.TensorTest do
  use ExUnit.Case, async: true

  alias GpuSched.{Msgpack, Tensor}

  defp list(datatype, shape, data),
    do: Tensor.to_list(%{"datatype" => datatype, "shape" => shape, "data" => data})

  test "numbers of every datatype become lists" do
    assert list("BOOL", [2], <<0, 1>>) == [false, true]
    assert list("UINT8", [2], <<1, 255>>) == [1, 255]
    assert list("INT8", [2], <<1, 255>>) == [1, -1]
    assert list("UINT16", [1], <<0xFFFE::little-16>>) == [0xFFFE]
    assert list("INT16", [1], <<-2::little-16>>) == [-2]
    assert list("UINT32", [1], <<7::little-32>>) == [7]
    assert list("INT32", [1], <<-7::little-32>>) == [-7]
    assert list("UINT64", [1], <<0xFFFFFFFFFFFFFFFF::64>>) == [0xFFFFFFFFFFFFFFFF]
    assert list("INT64", [1], <<-9::little-64>>) == [-9]
    assert list("FP64", [1], <<2.5::float-little-64>>) == [2.5]
    assert list("FP32", [2], <<0.5::float-little-32, -1.0::float-little-32>>) == [0.5, -1.0]
    assert list("FP16", [1], <<1.5::float-little-16>>) == [1.5]
    assert list("BF16", [1], <<0x3FC0::little-16>>) == [1.5]
  end

  test "what is no number is named" do
    assert list(
             "FP32",
             [3],
             <<0x7F800000::little-32, 0xFF800000::little-32, 0x7FC00000::little-32>>
           ) ==
             [:infinity, :neg_infinity, :nan]

    assert list("BF16", [1], <<0x7F80::little-16>>) == [:infinity]
    assert list("FP16", [1], <<0xFC00::little-16>>) == [:neg_infinity]
    assert list("FP64", [1], <<0x7FF8000000000000::little-64>>) == [:nan]
  end

  test "shapes nest, also without elements" do
    assert list("UINT8", [], <<9>>) == 9
    assert list("UINT8", [2, 3], <<1, 2, 3, 4, 5, 6>>) == [[1, 2, 3], [4, 5, 6]]
    assert list("UINT8", [2, 1, 2], <<1, 2, 3, 4>>) == [[[1, 2]], [[3, 4]]]
    assert list("UINT8", [0], <<>>) == []
    assert list("UINT8", [0, 3], <<>>) == []
    assert list("UINT8", [2, 0], <<>>) == [[], []]
    assert list("BYTES", [2], ["a", "b"]) == ["a", "b"]
  end

  test "tensors are read from maps with string or atom keys" do
    expected = {:tensor, "FP32", [1], <<0::32>>}

    assert Tensor.read(%{"datatype" => "FP32", "shape" => [1], "data" => <<0::32>>}, []) ==
             expected

    assert Tensor.read(%{datatype: :FP32, shape: {1}, data: <<0::32>>}, []) == expected
    assert Tensor.read([1, 2], []) == {:nested, [1, 2]}
  end

  test "a map that is no tensor is refused, with what it has" do
    for map <- [
          %{"shape" => [1]},
          %{"datatype" => "FP32", "shape" => [-1], "data" => ""},
          %{"datatype" => "FP32", "shape" => "1", "data" => ""},
          %{"datatype" => 7, "shape" => [1], "data" => ""},
          %{"datatype" => "FP32", "shape" => [1], "data" => self()}
        ] do
      assert {Msgpack, _path, text} = catch_throw(Tensor.read(map, ["x", "inputs"]))
      assert is_binary(text)
    end
  end

  test "a small output does not keep a large frame alive" do
    frame = :binary.copy(<<1>>, 1_000_000)
    small = binary_part(frame, 10, 100)
    result = %{"outputs" => %{"x" => %{"datatype" => "UINT8", "shape" => [100], "data" => small}}}

    {:ok, %{"outputs" => %{"x" => %{"data" => data}}}} = Tensor.outputs(result, :binary)
    assert data == small
    assert :binary.referenced_byte_size(data) < 1_000
  end
end
