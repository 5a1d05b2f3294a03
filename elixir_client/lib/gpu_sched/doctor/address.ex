# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Doctor.Address do
  # From the name of a machine to its addresses.
  @moduledoc false

  alias GpuSched.Doctor.Finding

  @type ip :: :inet.ip_address()

  # IPv6 first unless `first` says otherwise. `dns` is a name server to ask instead of the system's
  # resolver: what a private network calls its machines, the system may not know.
  @spec all(String.t(), {ip, :inet.port_number()} | nil, :inet | :inet6 | nil, timeout) ::
          {:ok, [ip]} | {:error, Finding.t()}
  def all(host, dns, first, timeout) do
    case parse(host) do
      {:ok, address} -> {:ok, [address]}
      :error -> host |> look_up(dns, timeout) |> ordered(host, dns, first)
    end
  end

  @spec parse(String.t()) :: {:ok, ip} | :error
  def parse(text) do
    text = text |> String.trim_leading("[") |> String.trim_trailing("]")

    case :inet.parse_strict_address(to_charlist(text)) do
      {:ok, address} -> {:ok, address}
      {:error, _} -> :error
    end
  end

  # Of "name@host" or "host".
  @spec split(String.t()) :: {String.t() | nil, String.t()}
  def split(target) do
    case String.split(target, "@", parts: 2) do
      [name, host] -> {name, host}
      [host] -> {nil, host}
    end
  end

  @spec family(ip) :: :inet | :inet6
  def family(address) when tuple_size(address) == 8, do: :inet6
  def family(_address), do: :inet

  @spec text(ip) :: String.t()
  def text(address), do: address |> :inet.ntoa() |> to_string()

  # "fdaa::3", "[fdaa::3]:5353", "127.0.0.1:5353".
  @spec name_server(String.t()) :: {:ok, {ip, :inet.port_number()}} | :error
  def name_server(text) do
    with :error <- parse(text),
         [_, host, port] <- Regex.run(~r/^(.*):(\d{1,5})$/, text),
         {:ok, address} <- parse(host) do
      {:ok, {address, String.to_integer(port)}}
    else
      {:ok, address} -> {:ok, {address, 53}}
      _ -> :error
    end
  end

  defp look_up(host, nil, _timeout) do
    host = to_charlist(host)

    for family <- [:inet6, :inet], {:ok, found} <- [:inet.getaddrs(host, family)], a <- found do
      a
    end
    |> Enum.reject(&mapped?/1)
  end

  defp look_up(host, server, timeout) do
    options = [nameservers: [server], timeout: timeout, retry: 1]

    for type <- [:aaaa, :a],
        {:ok, answer} <- [:inet_res.resolve(to_charlist(host), :in, type, options, timeout)],
        record <- :inet_dns.msg(answer, :anlist),
        :inet_dns.rr(record, :type) == type,
        do: :inet_dns.rr(record, :data)
  end

  # An IPv4 address in IPv6 clothes: some resolvers answer with them where there is no AAAA record.
  defp mapped?({0, 0, 0, 0, 0, 0xFFFF, _, _}), do: true
  defp mapped?(_address), do: false

  defp ordered([], host, dns, _first) do
    asked =
      case dns do
        nil -> "the system's resolver"
        {address, port} -> "the name server #{text(address)}, port #{port},"
      end

    {:error,
     Finding.problem(
       :address,
       "#{host} has no address: #{asked} does not know it",
       "Is it spelled right? Names of a private network (.internal) are known to its own name " <>
         "server only: bring the VPN up, or name the server with --dns ADDRESS."
     )}
  end

  defp ordered(addresses, _host, _dns, first) do
    addresses = Enum.uniq(addresses)
    {preferred, others} = Enum.split_with(addresses, &(family(&1) == (first || :inet6)))
    {:ok, preferred ++ others}
  end
end
