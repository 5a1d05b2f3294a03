# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.NamespacesTest do
  # A laptop and a host on two networks of their own, joined as machines are: IPv6, with delay and
  # loss, through a tunnel, and not at all.
  use ExUnit.Case, async: false

  alias GpuSched.{ConnectScript, FakePort, HostNode, Namespaces}

  if reason = ConnectScript.missing() || FakePort.missing() || Namespaces.missing(),
    do: @moduletag(skip: reason)

  @moduletag capture_log: true, tmp_dir: true, timeout: 180_000

  setup context do
    if context[:skip], do: :ok, else: {:ok, names: Namespaces.start()}
  end

  defp host(names) do
    [program | args] = Namespaces.prefix(names.host)
    exec = {to_charlist(program), Enum.map(args ++ ["erl"], &to_charlist/1)}
    host = HostNode.start(name: "gpu", host: names.host_address, exec: exec)
    HostNode.scheduler(host, models: [[name: "echo", path: "/x"]])
    host
  end

  defp run(command, host, names, typed, tmp, more \\ []) do
    args = [command, "--cookie-file", HostNode.cookie_file(host, tmp)] ++ more
    options = [home: tmp, prefix: Namespaces.prefix(names.laptop)]
    ConnectScript.run(args ++ [names.host_address], typed, options)
  end

  @typed ~S"""
  {:ok, r} = GpuSched.infer({GpuSched, host}, "echo", %{"x" => ["over there"]}, output: :list)
  IO.puts(["it is ", r["outputs"]["x"]])
  """

  test "IPv6, by the address alone", %{names: names, tmp_dir: tmp} do
    host = host(names)
    assert {output, 0} = run("connect", host, names, @typed, tmp)
    assert output =~ "it is over there"
    assert output =~ "connected to #{host.node}"
    # Its own name has its own address.
    assert output =~ ~r/alice-\w+@#{names.laptop_address}/
  end

  if reason = Namespaces.netem_missing(), do: @tag(skip: reason)

  test "20 ms each way, and packets are lost", %{names: names, tmp_dir: tmp} do
    host = host(names)
    :ok = Namespaces.shape(names, ~w(delay 20ms loss 1%))
    assert {output, 0} = run("connect", host, names, @typed, tmp)
    assert output =~ "it is over there"

    # The median of calls that each take two of them, and what the machine adds.
    assert {output, 0} = run("doctor", host, names, "", tmp)
    assert [_, ms] = Regex.run(~r/round trip (\d+\.\d\d) ms/, output)
    assert String.to_float(ms) >= 40.0
    assert output =~ ~r/bandwidth \d+\.\d MB/
  end

  if reason = Namespaces.wireguard_missing(), do: @tag(skip: reason)

  test "through WireGuard", %{names: names, tmp_dir: tmp} do
    names = Namespaces.tunnel(names, tmp)
    host = host(names)
    assert {output, 0} = run("connect", host, names, @typed, tmp)
    assert output =~ "it is over there"
    assert output =~ "connected to #{host.node}"
    assert "#{host.node}" =~ "@fdab::2"
  end

  test "a cable that is pulled, and a network that is not there", %{names: names, tmp_dir: tmp} do
    host = host(names)
    Namespaces.ip!(["-n", names.laptop, "link", "set", "veth0", "down"])
    assert {output, 1} = run("connect", host, names, "", tmp)
    assert output =~ "there is no route to #{names.host_address}"

    # There is one, and nobody at its end.
    Namespaces.ip!(["-n", names.laptop, "link", "set", "veth0", "up"])
    Namespaces.ip!(["-n", names.host, "link", "set", "veth0", "down"])
    assert {output, 1} = run("connect", host, names, "", tmp, ["--timeout", "300"])
    assert output =~ ~r/does not answer|no route/
  end
end
