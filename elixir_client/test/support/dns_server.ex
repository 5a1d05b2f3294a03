# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.DnsServer do
  # A name server on the loopback interface, for names that only a private network knows.
  @moduledoc false

  # `records` are {name, :a | :aaaa, address}. Answers its port; ends with the test.
  def start(records, address \\ {127, 0, 0, 1}) do
    family = if tuple_size(address) == 8, do: [:inet6], else: [:inet]
    test = self()

    ExUnit.Callbacks.start_supervised!(
      {Task,
       fn ->
         {:ok, socket} = :gen_udp.open(0, family ++ [:binary, ip: address, active: false])
         {:ok, port} = :inet.port(socket)
         send(test, {:dns_port, port})
         serve(socket, records)
       end}
    )

    receive do
      {:dns_port, port} -> port
    end
  end

  defp serve(socket, records) do
    {:ok, {from, port, packet}} = :gen_udp.recv(socket, 0)
    {:ok, query} = :inet_dns.decode(packet)
    [question] = :inet_dns.msg(query, :qdlist)
    name = question |> :inet_dns.dns_query(:domain) |> to_string() |> String.downcase()
    type = :inet_dns.dns_query(question, :type)

    answers =
      for {^name, ^type, address} <- records do
        :inet_dns.make_rr(
          domain: to_charlist(name),
          type: type,
          class: :in,
          ttl: 1,
          data: address
        )
      end

    known? = Enum.any?(records, &(elem(&1, 0) == name))

    header =
      :inet_dns.make_header(:inet_dns.msg(query, :header),
        qr: true,
        aa: true,
        rcode: if(known?, do: 0, else: 3)
      )

    answer = :inet_dns.make_msg(header: header, qdlist: [question], anlist: answers)
    :ok = :gen_udp.send(socket, from, port, :inet_dns.encode(answer))
    serve(socket, records)
  end
end
