# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Doctor.Handshake do
  # The handshake of Erlang's distribution, as far as it takes to learn what a node calls itself and
  # whether a cookie is its cookie: Node.connect/1 answers a bare false to both. (Version 6 of it, as
  # in "Distribution Protocol" of the ERTS reference; every OTP from 23 on speaks it.)
  @moduledoc false

  import Bitwise

  # What every node of OTP 25 and later insists on. Not among them: 1, being visible.
  @flags Enum.reduce([2, 4, 7, 8, 9, 10, 11, 16, 17, 18, 24, 25, 34, 36], 0, &(&2 ||| 1 <<< &1))
  @longest_name 1_024

  @type answer :: %{node: String.t(), cookie: :right | :wrong | :not_asked, own: tuple}

  # `cookie` is nil where only the name is of interest. `name` is what we call ourselves; nobody else
  # has the one that is made up. To break off after the first answer changes nothing over there.
  @spec ask(:inet.ip_address(), :inet.port_number(), atom | nil, timeout, node | nil) ::
          {:ok, answer} | {:error, term}
  def ask(address, port, cookie, timeout, name \\ nil) do
    family = if tuple_size(address) == 8, do: [:inet6], else: [:inet]
    options = family ++ [:binary, packet: 2, active: false, nodelay: true]

    with {:ok, socket} <- :gen_tcp.connect(address, port, options, timeout) do
      try do
        converse(socket, cookie, timeout, name)
      after
        :gen_tcp.close(socket)
      end
    end
  end

  defp converse(socket, cookie, timeout, name) do
    {:ok, {own, _port}} = :inet.sockname(socket)
    name = to_string(name || "doctor-#{random(32)}@#{:inet.ntoa(own)}")
    hello = <<?N, @flags::64, random(32)::32, byte_size(name)::16, name::binary>>

    with :ok <- :gen_tcp.send(socket, hello),
         {:ok, <<?s, status::binary>>} <- :gen_tcp.recv(socket, 0, timeout),
         :ok <- accepted(status),
         {:ok,
          <<?N, _flags::64, challenge::32, _creation::32, size::16, node::binary-size(size)>>}
         when size <= @longest_name <- :gen_tcp.recv(socket, 0, timeout) do
      case prove(socket, cookie, challenge, timeout) do
        {:error, reason} -> {:error, reason}
        cookie -> {:ok, %{node: node, cookie: cookie, own: own}}
      end
    else
      {:error, reason} -> {:error, reason}
      {:ok, _other} -> {:error, :no_handshake}
    end
  end

  defp accepted(status) when status in ["ok", "ok_simultaneous"], do: :ok
  defp accepted(status), do: {:error, {:refused, status}}

  defp prove(_socket, nil, _challenge, _timeout), do: :not_asked

  defp prove(socket, cookie, challenge, timeout) do
    ours = random(32)
    expected = digest(cookie, ours)

    with :ok <- :gen_tcp.send(socket, <<?r, ours::32, digest(cookie, challenge)::binary>>) do
      case :gen_tcp.recv(socket, 0, timeout) do
        {:ok, <<?a, ^expected::binary>>} -> :right
        {:ok, _other} -> :wrong
        # It hangs up on a wrong one.
        {:error, :closed} -> :wrong
        {:error, :econnreset} -> :wrong
        {:error, reason} -> {:error, reason}
      end
    end
  end

  # As the protocol has it; nothing here is kept secret by MD5.
  # A character of the cookie is a byte.
  defp digest(cookie, challenge),
    do: :erlang.md5([Atom.to_charlist(cookie), Integer.to_charlist(challenge)])

  # Of what has others, every connection fails.
  @spec usable?(atom) :: boolean
  def usable?(cookie), do: cookie |> Atom.to_charlist() |> Enum.all?(&(&1 <= 255))

  defp random(bits), do: :rand.uniform(1 <<< bits) - 1
end
