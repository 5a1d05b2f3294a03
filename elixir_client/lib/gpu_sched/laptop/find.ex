# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Laptop.Find do
  # What `gpu_sched connect` does before the shell is opened: finds the node, so that it is known
  # whether the shell has to speak IPv4 or IPv6, and says what is wrong where it cannot be found. The
  # answer is written into the script's own folder; so is the cookie, for nobody else to read.
  @moduledoc false

  alias GpuSched.Doctor.{Address, Finding, Network}

  @spec main :: no_return
  def main do
    folder = System.fetch_env!("GPU_SCHED_CONNECT_FOLDER")
    target = System.fetch_env!("GPU_SCHED_CONNECT_TARGET")

    case with(
           {:ok, cookie} <- cookie(folder),
           do: Network.reach(target, [cookie: cookie] ++ options())
         ) do
      {:ok, found, findings} ->
        Finding.print(Enum.reject(findings, &(&1.level == :ok)), :stderr)
        File.write!(Path.join(folder, "found"), line(found))
        System.halt(0)

      {:error, findings} ->
        IO.puts(:stderr, "gpu_sched: #{target} cannot be connected to:")
        Finding.print(findings, :stderr)
        System.halt(1)
    end
  end

  # What Shell.read/1 reads.
  defp line(found) do
    proto = if Address.family(found.address) == :inet6, do: "inet6_tcp", else: "inet_tcp"
    "#{proto} #{found.node} #{Address.text(found.address)} #{Address.text(found.own)}\n"
  end

  # That of the script, or the laptop's own. The shell finds it in the folder either way: OTP looks in
  # one of the two places, and makes a random one of its own where there is none.
  defp cookie(folder) do
    own = Path.join(folder, "cookie")
    home = System.user_home() || "/"
    config = System.get_env("XDG_CONFIG_HOME") || Path.join(home, ".config")
    others = [Path.join(home, ".erlang.cookie"), Path.join(config, "erlang/.erlang.cookie")]

    case Enum.find_value([own | others], &read/1) do
      nil ->
        {:error,
         [
           Finding.problem(
             :cookie,
             "there is no cookie: no --cookie-file, no RELEASE_COOKIE, and nothing in " <>
               Enum.join(others, " or "),
             "It is the host's: on the host, Node.get_cookie() says it. Give it by --cookie-file FILE, " <>
               "or in the variable RELEASE_COOKIE."
           )
         ]}

      cookie ->
        # An atom has at most so many characters.
        if String.valid?(cookie) and String.length(cookie) <= 255 do
          # The folder is this user's alone.
          File.write!(own, cookie)
          {:ok, String.to_atom(cookie)}
        else
          {:error, [no_cookie(cookie)]}
        end
    end
  end

  # Of what is in it nothing is said: it may be a secret all the same.
  defp no_cookie(text) do
    Finding.problem(
      :cookie,
      "what was given as the cookie is none: #{byte_size(text)} bytes" <>
        if(String.valid?(text), do: ", of at most 255 characters", else: " that are not text"),
      "Is it the right file? The host's cookie is what Node.get_cookie() says there."
    )
  end

  defp read(path) do
    with {:ok, text} <- File.read(path),
         text when text != "" <- String.trim(text),
         do: text,
         else: (_ -> nil)
  end

  defp options do
    Enum.flat_map(
      [
        {"GPU_SCHED_CONNECT_DNS", &dns/1},
        {"GPU_SCHED_CONNECT_PORT", &[port: String.to_integer(&1)]},
        {"GPU_SCHED_CONNECT_PREFER", &[prefer: String.split(&1)]},
        {"GPU_SCHED_CONNECT_FAMILY", &family/1},
        {"GPU_SCHED_CONNECT_TIMEOUT", &[timeout: String.to_integer(&1)]}
      ],
      fn {variable, option} ->
        case System.get_env(variable, "") do
          "" -> []
          value -> option.(value)
        end
      end
    )
  end

  defp dns(text) do
    case Address.name_server(text) do
      {:ok, server} ->
        [dns: server]

      :error ->
        IO.puts(:stderr, "gpu_sched: --dns takes an address, with or without a port; got #{text}")
        System.halt(64)
    end
  end

  defp family("inet6_tcp"), do: [family: :inet6]
  defp family(_other), do: [family: :inet]
end
