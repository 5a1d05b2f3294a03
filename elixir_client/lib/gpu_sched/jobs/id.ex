# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Jobs.Id do
  # The name of a job, good on every node: "gpu@10.0.0.2/MyApp.Gpu/17" is the 17th of the scheduler
  # MyApp.Gpu on that node. A number is used once while the node lives.
  @moduledoc false

  alias GpuSched.Error

  @type number_of :: pos_integer
  @type t :: String.t()

  # What a scheduler is called in the ids of its jobs. One that has no name that is an atom is called
  # after its pid, which no other has.
  @spec label(term, pid) :: String.t()
  def label(name, _pid) when is_atom(name) and name != nil do
    name |> inspect() |> String.trim_leading(":") |> String.replace("/", "|")
  end

  def label(_name, pid), do: "pid" <> (pid |> :erlang.pid_to_list() |> List.to_string())

  @spec format(String.t(), number_of) :: t
  def format(label, number), do: "#{node()}/#{label}/#{number}"

  @spec parse(t) :: {:ok, node, String.t(), number_of} | {:error, Error.t()}
  def parse(id) do
    with [node, label, number] <- String.split(id, "/"),
         {number, ""} when number > 0 <- Integer.parse(number),
         {:ok, node} <- node(node, id) do
      {:ok, node, label, number}
    else
      {:error, error} ->
        {:error, error}

      _ ->
        {:error,
         Error.exception(
           reason: :invalid_argument,
           message:
             ~s(#{inspect(id, printable_limit: 80)} is not the id of a job, which looks like ) <>
               ~s("gpu@10.0.0.2/MyApp.Gpu/17")
         )}
    end
  end

  # A node that was never heard of is not worth an atom. One without a name is this one.
  defp node("nonode@nohost", _id), do: {:ok, node()}

  defp node(name, id) do
    {:ok, String.to_existing_atom(name)}
  rescue
    ArgumentError ->
      {:error,
       Error.exception(
         reason: :unavailable,
         message: "the node of the job #{id} is not known here: connect to it first"
       )}
  end
end
