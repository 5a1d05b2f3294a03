# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.ToolsPath do
  # Folders of links to programs, to be the whole PATH of what a test runs: a machine on which some are
  # not installed.
  @moduledoc false

  # What POSIX has, and what macOS has beside it that the scripts use (mktemp; readlink is older there).
  @posix ~w(sh env cat cut dirname basename sed tr rm grep uname expr id tty stty chmod cp mkdir head
            tail sort test true false printf echo kill sleep wc ls ln mv od ps) ++
           ~w(mktemp readlink)

  # Nothing but those, and `more`.
  def posix(folder, more), do: links(folder, @posix ++ more, &System.find_executable/1)

  # All that is on the PATH now, but for some.
  def without(folder, names) do
    all =
      for directory <- "PATH" |> System.get_env() |> String.split(":") |> Enum.reverse(),
          {:ok, files} <- [File.ls(directory)],
          file <- files,
          file not in names,
          into: %{},
          do: {file, Path.join(directory, file)}

    links(folder, Map.keys(all), &all[&1])
  end

  defp links(folder, names, where) do
    File.mkdir_p!(folder)

    for name <- names, path = where.(name) do
      link = Path.join(folder, name)
      _ = File.rm(link)
      File.ln_s!(path, link)
    end

    folder
  end
end
