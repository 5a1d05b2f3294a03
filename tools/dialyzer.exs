# SPDX-License-Identifier: Apache-2.0
#
# ./dev dialyzer: whether the specs of the Elixir client are true, as OTP's dialyzer sees it.
#
#   elixir tools/dialyzer.exs EBIN PLT
#
# PLT is made first where it is not there, of OTP and Elixir, which takes some minutes. Iodata whose last
# element is a binary is an improper list, and meant to be.

defmodule Dialyzer do
  @moduledoc false

  def main([ebin, plt]) do
    unless Code.ensure_loaded?(:dialyzer) do
      IO.puts(
        :stderr,
        "dialyzer: OTP's application dialyzer is not installed (Debian: erlang-dialyzer)"
      )

      System.halt(77)
    end

    unless File.exists?(plt), do: build(plt)

    warnings =
      :dialyzer.run(
        analysis_type: :succ_typings,
        init_plt: to_charlist(plt),
        files_rec: [to_charlist(ebin)],
        warnings: [:no_improper_lists]
      )

    for warning <- warnings, do: IO.write(:dialyzer.format_warning(warning))
    IO.puts("dialyzer: #{length(warnings)} warnings")
    System.halt(if(warnings == [], do: 0, else: 1))
  end

  defp build(plt) do
    IO.puts(:stderr, "dialyzer: making #{plt}, which takes some minutes")
    File.mkdir_p!(Path.dirname(plt))

    # Built beside it, so that one that was interrupted is not taken for whole.
    fresh = plt <> ".new"
    folders = for app <- apps(), dir = folder(app), File.dir?(dir), do: to_charlist(dir)
    :dialyzer.run(analysis_type: :plt_build, output_plt: to_charlist(fresh), files_rec: folders)
    File.rename!(fresh, plt)
  end

  defp apps, do: [:erts, :kernel, :stdlib, :crypto, :inets, :elixir, :logger, :mix]

  defp folder(app) do
    case :code.lib_dir(app) do
      {:error, _not_there} -> ""
      dir -> Path.join(to_string(dir), "ebin")
    end
  end
end

Dialyzer.main(System.argv())
