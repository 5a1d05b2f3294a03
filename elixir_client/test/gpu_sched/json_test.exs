# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.JsonTest do
  use ExUnit.Case, async: true

  alias GpuSched.Json

  defp written(term), do: term |> Json.encode() |> IO.iodata_to_binary()

  test "what is written is read" do
    for term <- [
          nil,
          true,
          false,
          0,
          -17,
          1.5,
          -2.5e-7,
          1.0e300,
          "",
          "a \"quoted\" \\ text\n\t\u0001 with ü, 漢 and 😀",
          [],
          %{},
          [1, [2, %{"a" => [nil]}]],
          %{"b" => 1, "a" => %{"c" => "</script>"}}
        ] do
      assert Json.decode(written(term)) == {:ok, term}
    end
  end

  test "nothing that is written ends a script" do
    refute written("</script><!--&") =~ ~r/[<>&]/
  end

  test "what others write is read" do
    assert Json.decode(~s( { "a" : [ 1 , 2.0e1 ] , "b":"\\u00e4\\ud83d\\ude00\\/" } )) ==
             {:ok, %{"a" => [1, 20.0], "b" => "ä😀/"}}
  end

  test "what is none is refused, with what is wrong" do
    for {text, part} <- [
          {"", "end of the text"},
          {"[1,]", "\"]\""},
          {"{\"a\" 1}", "colon"},
          {"{a:1}", "name"},
          {"[1 2]", "comma"},
          {"\"open", "does not end"},
          {"\"\\x\"", "escape"},
          {"\"\\ud800\"", "half"},
          {"1 2", "after the end"},
          {"1e999", "1e999"},
          {"01", "after the end"},
          {String.duplicate("[", 100), "deep"},
          {<<?", 0xFF, ?">>, "no text"}
        ] do
      assert {:error, what} = Json.decode(text)
      assert what =~ part, "#{inspect(text)}: #{what}"
    end
  end
end
