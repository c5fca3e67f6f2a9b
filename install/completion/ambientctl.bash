# SPDX-License-Identifier: Apache-2.0
# Completion of ambientctl(8) for bash. Commands and options come from its --help, pods from the agent.
_ambientctl()
{
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} me=${COMP_WORDS[0]} cmd= i
	local commands

	COMPREPLY=()
	commands=$("$me" --help 2>/dev/null | sed -n '/^commands:/,/^$/s/^  \([a-z-]*\) .*/\1/p')
	for ((i = 1; i < COMP_CWORD; i++)); do
		if [[ " ${commands//$'\n'/ } " == *" ${COMP_WORDS[i]} "* ]]; then
			cmd=${COMP_WORDS[i]}
			break
		fi
	done
	case $prev in
	--color) COMPREPLY=($(compgen -W "auto always never" -- "$cur")); return ;;
	--format) COMPREPLY=($(compgen -W "text json" -- "$cur")); return ;;
	-o|--output)
		if [[ $cmd != support-bundle ]]; then
			COMPREPLY=($(compgen -W "text json" -- "$cur"))
		else
			COMPREPLY=($(compgen -f -- "$cur"))
		fi
		return ;;
	-n|--namespace)
		COMPREPLY=($(compgen -W "$("$me" pods --names 2>/dev/null | sed 's#/.*##' | sort -u)" -- "$cur")); return ;;
	-f|--file|--*-socket|--kubeconfig|--plugin) COMPREPLY=($(compgen -f -- "$cur")); return ;;
	--*-dir) COMPREPLY=($(compgen -d -- "$cur")); return ;;
	esac
	if [[ $cur == -* ]]; then
		COMPREPLY=($(compgen -W "$("$me" $cmd --help 2>/dev/null | grep -o -- '^  .*--[a-z-]*' | grep -o -- '--[a-z-]*$')" -- "$cur"))
	elif [[ -z $cmd ]]; then
		COMPREPLY=($(compgen -W "$commands" -- "$cur"))
	elif [[ $cmd == rules ]]; then
		COMPREPLY=($(compgen -W "$("$me" pods --names 2>/dev/null)" -- "$cur"))
	fi
}
complete -F _ambientctl ambientctl
