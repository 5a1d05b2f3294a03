# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Json do
  # JSON, for files and pages. OTP has one of its own from 27 on only.
  @moduledoc false

  # ---- writing

  @spec encode(term) :: iodata
  def encode(nil), do: "null"
  def encode(true), do: "true"
  def encode(false), do: "false"
  def encode(n) when is_integer(n), do: Integer.to_string(n)
  def encode(x) when is_float(x), do: :erlang.float_to_binary(x, [:short])
  def encode(a) when is_atom(a), do: a |> Atom.to_string() |> encode()
  def encode(s) when is_binary(s), do: [?", escape(valid(s), []), ?"]
  def encode(list) when is_list(list), do: [?[, list |> Enum.map(&encode/1) |> commas(), ?]]

  def encode(map) when is_map(map) and not is_struct(map) do
    pairs =
      for {key, value} <- Enum.sort_by(map, &to_string(elem(&1, 0))),
          do: [key |> to_string() |> encode(), ?:, encode(value)]

    [?{, commas(pairs), ?}]
  end

  defp commas(list), do: Enum.intersperse(list, ?,)

  defp valid(s), do: if(String.valid?(s), do: s, else: "base64:" <> Base.encode64(s))

  defp escape(<<>>, acc), do: acc
  defp escape(<<?", rest::binary>>, acc), do: escape(rest, [acc, "\\\""])
  defp escape(<<?\\, rest::binary>>, acc), do: escape(rest, [acc, "\\\\"])
  defp escape(<<?\n, rest::binary>>, acc), do: escape(rest, [acc, "\\n"])

  # Also what would end a script that it stands in.
  defp escape(<<c, rest::binary>>, acc) when c < 0x20 or c in [?<, ?>, ?&],
    do: escape(rest, [acc, "\\u" <> String.pad_leading(Integer.to_string(c, 16), 4, "0")])

  defp escape(<<c::utf8, rest::binary>>, acc), do: escape(rest, [acc, <<c::utf8>>])

  # ---- reading

  # Nested no deeper than this: a file is somebody's, and this process is ours.
  @deepest 64

  @spec decode(binary) :: {:ok, term} | {:error, String.t()}
  def decode(text) when is_binary(text) do
    {value, rest} = text |> blank() |> value(@deepest)

    case blank(rest) do
      "" -> {:ok, value}
      rest -> {:error, "something after the end: #{near(rest)}"}
    end
  catch
    {__MODULE__, what} -> {:error, what}
  end

  defp wrong(what), do: throw({__MODULE__, what})
  defp near(""), do: "the end of the text"
  defp near(rest), do: inspect(String.slice(rest, 0, 20))

  defp blank(<<c, rest::binary>>) when c in [?\s, ?\n, ?\r, ?\t], do: blank(rest)
  defp blank(rest), do: rest

  defp value(_text, 0), do: wrong("it is nested too deep")
  defp value("null" <> rest, _depth), do: {nil, rest}
  defp value("true" <> rest, _depth), do: {true, rest}
  defp value("false" <> rest, _depth), do: {false, rest}
  defp value("\"" <> rest, _depth), do: string(rest, [])

  defp value("[" <> rest, depth) do
    case blank(rest) do
      "]" <> rest -> {[], rest}
      rest -> elements(rest, depth - 1, [])
    end
  end

  defp value("{" <> rest, depth) do
    case blank(rest) do
      "}" <> rest -> {%{}, rest}
      rest -> members(rest, depth - 1, %{})
    end
  end

  defp value(text, _depth) do
    case Regex.run(~r/^-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?/, text) do
      [number, _int] -> {String.to_integer(number), after_text(text, number)}
      [number | _] -> {float(number), after_text(text, number)}
      nil -> wrong("a value belongs at #{near(text)}")
    end
  end

  defp after_text(text, number),
    do: binary_part(text, byte_size(number), byte_size(text) - byte_size(number))

  defp float(number) do
    case Float.parse(number) do
      {value, ""} -> value
      _ -> wrong("the number #{number}")
    end
  rescue
    # It is larger than a float.
    ArgumentError -> wrong("the number #{number}")
  end

  defp elements(text, depth, acc) do
    {value, rest} = value(text, depth)

    case blank(rest) do
      "," <> rest -> rest |> blank() |> elements(depth, [value | acc])
      "]" <> rest -> {Enum.reverse([value | acc]), rest}
      rest -> wrong("a comma or ] belongs at #{near(rest)}")
    end
  end

  defp members("\"" <> rest, depth, acc) do
    {key, rest} = string(rest, [])

    {value, rest} =
      case blank(rest) do
        ":" <> rest -> rest |> blank() |> value(depth)
        rest -> wrong("a colon belongs at #{near(rest)}")
      end

    acc = Map.put(acc, key, value)

    case blank(rest) do
      "," <> rest -> rest |> blank() |> members(depth, acc)
      "}" <> rest -> {acc, rest}
      rest -> wrong("a comma or } belongs at #{near(rest)}")
    end
  end

  defp members(rest, _depth, _acc), do: wrong("a name belongs at #{near(rest)}")

  defp string("\"" <> rest, acc), do: {IO.iodata_to_binary(acc), rest}

  defp string(<<?\\, ?u, hex::binary-size(4), rest::binary>>, acc) do
    case unicode(code(hex), rest) do
      {:ok, c, rest} -> string(rest, [acc, <<c::utf8>>])
      :error -> wrong("half of a character: \\u#{hex}")
    end
  end

  defp string(<<?\\, c, rest::binary>>, acc) do
    plain = %{
      ?" => "\"",
      ?\\ => "\\",
      ?/ => "/",
      ?b => "\b",
      ?f => "\f",
      ?n => "\n",
      ?r => "\r",
      ?t => "\t"
    }

    case plain do
      %{^c => text} -> string(rest, [acc, text])
      _ -> wrong("the escape \\#{<<c>>}")
    end
  end

  defp string(<<c::utf8, rest::binary>>, acc) when c >= 0x20,
    do: string(rest, [acc, <<c::utf8>>])

  defp string(rest, _acc),
    do: wrong("a string that does not end, or is no text, at #{near_bytes(rest)}")

  defp near_bytes(rest), do: rest |> binary_part(0, min(20, byte_size(rest))) |> inspect()

  defp code(hex) do
    case Integer.parse(hex, 16) do
      {code, ""} -> code
      _ -> wrong("the escape \\u#{hex}")
    end
  end

  defp unicode(high, <<?\\, ?u, hex::binary-size(4), rest::binary>>)
       when high in 0xD800..0xDBFF do
    case code(hex) do
      low when low in 0xDC00..0xDFFF ->
        {:ok, 0x10000 + (high - 0xD800) * 0x400 + low - 0xDC00, rest}

      _ ->
        :error
    end
  end

  defp unicode(code, _rest) when code in 0xD800..0xDFFF, do: :error
  defp unicode(code, rest), do: {:ok, code, rest}
end
