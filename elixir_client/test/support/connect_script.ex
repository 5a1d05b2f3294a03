# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.ConnectScript do
  # Runs bin/gpu_sched as a laptop would: under dash where there is one, in a home of its own, with
  # nothing of ours on Erlang's path.
  @moduledoc false

  @script Path.expand("../../bin/gpu_sched", __DIR__)

  def path, do: @script

  # A reason to skip, or nil.
  def missing do
    cond do
      System.find_executable("iex") == nil -> "iex is not installed"
      System.find_executable("epmd") == nil -> "epmd is not installed"
      true -> GpuSched.TestNode.missing()
    end
  end

  # dash is the strictest of the shells that are usually there.
  def shell, do: System.find_executable("dash") || "/bin/sh"

  # What it printed, and its exit code. `input` is typed into the shell. Options: :env, :prefix (a
  # command to run it with), :shell (a command that runs it), :home.
  def run(args, input \\ "", options \\ []) do
    home = Keyword.fetch!(options, :home)
    typed = Path.join(home, "typed-#{System.unique_integer([:positive])}")
    File.write!(typed, input)

    # System.cmd leaves standard input open, and iex waits for the end of it.
    shell = Keyword.get(options, :shell, [shell()])
    quoted = Enum.map_join(shell ++ [@script | args], " ", &quote_word/1)
    command = "#{quoted} <#{quote_word(typed)} 2>&1"
    [program | before] = Keyword.get(options, :prefix, []) ++ ["/bin/sh", "-c", command]
    System.cmd(program, before, env: env(home, options), cd: home)
  end

  def env(home, options \\ []) do
    [
      {"HOME", home},
      {"TMPDIR", home},
      {"USER", "alice"},
      {"RELEASE_COOKIE", nil},
      {"ERL_LIBS", nil},
      {"ERL_AFLAGS", nil},
      {"ERL_FLAGS", nil},
      {"ERL_ZFLAGS", nil},
      {"MIX_ENV", nil}
    ] ++ Keyword.get(options, :env, [])
  end

  def quote_word(word), do: "'" <> String.replace(word, "'", "'\\''") <> "'"
end
