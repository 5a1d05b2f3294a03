# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Namespaces do
  # Two network namespaces, a laptop's and a host's, joined by a veth pair: two machines, as far as
  # the network goes. What they are joined by can be made slow and lossy, or a WireGuard tunnel.
  @moduledoc false

  defstruct [:laptop, :host, :laptop_address, :host_address]

  # A reason to skip, or nil.
  def missing do
    name = "gs-probe-#{System.pid()}"

    with nil <- lacking(~w(ip)),
         {_, 0} <- ip(["netns", "add", name]) do
      # To be made is one thing, to be entered another: a root that is no mount point is in the way.
      entered = ip(["-n", name, "link", "show"])
      ip(["netns", "del", name])
      if elem(entered, 1) != 0, do: not_permitted(entered)
    else
      {_output, _status} = refused -> not_permitted(refused)
      reason -> reason
    end
  end

  defp not_permitted({output, _status}),
    do: "network namespaces are not permitted here: #{String.trim(output)}"

  def netem_missing do
    name = "gs-probe-#{System.pid()}"

    with nil <- missing() || lacking(~w(tc)) do
      {_, 0} = ip(["netns", "add", name])

      try do
        case tc(name, "lo", ~w(delay 1ms)) do
          {_, 0} -> nil
          {output, _} -> "the kernel has no netem: #{String.trim(output)}"
        end
      after
        ip(["netns", "del", name])
      end
    end
  end

  def wireguard_missing do
    missing() || lacking(~w(wireguard-go wg)) ||
      unless File.exists?("/dev/net/tun"), do: "there is no /dev/net/tun"
  end

  defp lacking(programs) do
    case Enum.reject(programs, &System.find_executable/1) do
      [] -> nil
      several -> "not installed: #{Enum.join(several, ", ")}"
    end
  end

  # They end with the test, and so does whatever runs in them.
  def start do
    unique = "#{System.unique_integer([:positive])}-#{System.pid()}"
    {laptop, host} = {"gs-laptop-#{unique}", "gs-host-#{unique}"}

    ExUnit.Callbacks.on_exit(fn ->
      for name <- [laptop, host], do: stop(name)
    end)

    for name <- [laptop, host], do: ip!(["netns", "add", name])

    ip!(
      ~w(link add name veth0 netns) ++ [laptop] ++ ~w(type veth peer name veth0 netns) ++ [host]
    )

    for {name, n} <- [{laptop, 1}, {host, 2}] do
      ip!(["-n", name, "addr", "add", "fdaa:0:1::#{n}/64", "dev", "veth0", "nodad"])
      for device <- ~w(lo veth0), do: ip!(["-n", name, "link", "set", device, "up"])
    end

    %__MODULE__{
      laptop: laptop,
      host: host,
      laptop_address: "fdaa:0:1::1",
      host_address: "fdaa:0:1::2"
    }
  end

  defp stop(name) do
    case ip(["netns", "pids", name]) do
      {pids, 0} ->
        for pid <- String.split(pids), do: System.cmd("/bin/sh", ["-c", "kill -9 #{pid}"])

      _ ->
        :ok
    end

    ip(["netns", "del", name])
  end

  # In both directions, so the round trip grows by twice the delay.
  def shape(names, netem) do
    for name <- [names.laptop, names.host] do
      {_, 0} = tc(name, "veth0", netem)
    end

    :ok
  end

  defp tc(name, device, netem) do
    args = ["-n", name] ++ ~w(qdisc replace dev #{device} root netem) ++ netem
    System.cmd("tc", args, stderr_to_stdout: true)
  end

  # Joins the two by a tunnel as well, and answers them with their addresses in it.
  def tunnel(names, folder) do
    sides = [{names.laptop, names.laptop_address, 1}, {names.host, names.host_address, 2}]

    # wireguard-go is spoken to through a socket in the file system, which they share.
    device = fn n -> "gs#{n}-#{rem(String.to_integer(System.pid()), 10_000_000)}" end
    sockets = for n <- [1, 2], do: "/var/run/wireguard/#{device.(n)}.sock"
    ExUnit.Callbacks.on_exit(fn -> Enum.each(sockets, &File.rm/1) end)

    keys =
      for {name, _address, n} <- sides do
        path = Path.join(folder, "key-#{n}")
        {key, 0} = System.cmd("wg", ["genkey"])
        File.write!(path, key)
        File.chmod!(path, 0o600)
        {public, 0} = System.cmd("/bin/sh", ["-c", "wg pubkey <#{path}"])
        exec!(name, ["wireguard-go", device.(n)])
        {path, String.trim(public)}
      end

    for {{name, _address, n}, {path, _}, {_, other, m}, {_, public}} <-
          Enum.zip([sides, keys, Enum.reverse(sides), Enum.reverse(keys)]) do
      peer = ["peer", public, "allowed-ips", "fdab::#{m}/128", "endpoint", "[#{other}]:51820"]
      exec!(name, ["wg", "set", device.(n), "listen-port", "51820", "private-key", path] ++ peer)
      ip!(["-n", name, "addr", "add", "fdab::#{n}/64", "dev", device.(n), "nodad"])
      ip!(["-n", name, "link", "set", device.(n), "mtu", "1420", "up"])
    end

    %{names | laptop_address: "fdab::1", host_address: "fdab::2"}
  end

  # What a program is to be run with, to be run in one of them.
  def prefix(name), do: [System.find_executable("ip"), "netns", "exec", name]

  defp exec!(name, command) do
    [program | args] = prefix(name) ++ command
    # It becomes a daemon, which keeps what it was given to write to.
    quoted = Enum.map_join([program | args], " ", &GpuSched.ConnectScript.quote_word/1)
    {_, 0} = System.cmd("/bin/sh", ["-c", quoted <> " >/dev/null 2>&1 </dev/null"])
  end

  def ip!(args) do
    {output, status} = ip(args)
    if status != 0, do: raise("ip #{Enum.join(args, " ")}: #{output}")
    output
  end

  defp ip(args), do: System.cmd("ip", args, stderr_to_stdout: true)
end
