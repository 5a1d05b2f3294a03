# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Browser do
  # A headless Chromium, where there is one.
  @moduledoc false

  @names ~w(chromium chromium-browser google-chrome google-chrome-stable)

  def path, do: Enum.find_value(@names, &System.find_executable/1)

  # A reason to skip, or nil.
  def missing do
    unless path(), do: "no Chromium (#{Enum.join(@names, ", ")}) on the PATH"
  end

  # The page as it is when its scripts have run for `ms` of the browser's own time, and what was
  # written to its console. Its profile is in a folder of the test.
  def dom(url, folder, ms), do: run(["--dump-dom", "--virtual-time-budget=#{ms}"], url, folder)

  def screenshot(url, folder, file, ms, more \\ []) do
    args = ["--screenshot=#{file}", "--virtual-time-budget=#{ms}", "--hide-scrollbars"]
    run(args ++ more, url, folder)
  end

  defp run(args, url, folder) do
    stderr = Path.join(folder, "console")

    fixed = [
      "--headless",
      "--no-sandbox",
      "--disable-gpu",
      "--disable-dev-shm-usage",
      "--enable-logging=stderr",
      "--user-data-dir=#{Path.join(folder, "profile")}"
    ]

    # Two outputs, of which only a shell keeps one apart.
    script = ~s(err=$1; shift; exec "$@" 2>"$err")
    command = ["-c", script, "sh", stderr, path()] ++ fixed ++ args ++ [url]
    {out, status} = System.cmd("/bin/sh", command)
    console = stderr |> File.read!() |> String.split("\n") |> Enum.filter(&(&1 =~ "CONSOLE"))
    {status, out, console}
  end
end
