# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.HttpTarget do
  # A web server that any tool can ask, and whose answers take as long as was said: of ten requests, in
  # the order in which they come, each as many ms as the list says. None waits for another.
  @moduledoc false

  def start(ms) do
    {:ok, listener} =
      :gen_tcp.listen(0, [:binary, ip: {127, 0, 0, 1}, active: false, backlog: 128])

    {:ok, port} = :inet.port(listener)
    count = :atomics.new(1, [])
    spawn_link(fn -> accept(listener, count, List.to_tuple(ms)) end)
    port
  end

  defp accept(listener, count, ms) do
    {:ok, socket} = :gen_tcp.accept(listener)
    pid = spawn_link(fn -> serve(count, ms) end)
    :ok = :gen_tcp.controlling_process(socket, pid)
    send(pid, {:serve, socket})
    accept(listener, count, ms)
  end

  defp serve(count, ms) do
    receive do
      {:serve, socket} -> read(socket, "", count, ms)
    end
  end

  defp read(socket, text, count, ms) do
    # Whoever gives up closes it.
    with false <- String.ends_with?(text, "\r\n\r\n"),
         {:ok, more} <- :gen_tcp.recv(socket, 0) do
      read(socket, text <> more, count, ms)
    else
      true ->
        n = rem(:atomics.add_get(count, 1, 1) - 1, tuple_size(ms))
        Process.sleep(elem(ms, n))
        _ = :gen_tcp.send(socket, "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok")
        :gen_tcp.close(socket)

      {:error, _closed} ->
        :gen_tcp.close(socket)
    end
  end

  # The same request that other tools send, for GpuSched.Load.
  def ask(port) do
    fn _inputs ->
      {:ok, socket} = :gen_tcp.connect({127, 0, 0, 1}, port, [:binary, active: false])
      :ok = :gen_tcp.send(socket, "GET / HTTP/1.0\r\n\r\n")
      answer = read_all(socket, "")
      :gen_tcp.close(socket)
      if String.ends_with?(answer, "ok"), do: :ok, else: :error
    end
  end

  defp read_all(socket, text) do
    case :gen_tcp.recv(socket, 0) do
      {:ok, more} -> read_all(socket, text <> more)
      {:error, :closed} -> text
    end
  end
end
