package mda

import (
	"fmt"
	"os"
	"os/user"
	"strconv"
)

// An Owner is a user and his groups, as the system knows them.
type Owner struct {
	Name     string
	Home     string
	UID, GID int
	Groups   []int // all, if the group was not chosen
}

// LookupOwner finds a user by name or number, and a group, "" for the user's own.
func LookupOwner(name, group string) (*Owner, error) {
	u, err := user.Lookup(name)
	if err != nil {
		if u, err = user.LookupId(name); err != nil {
			return nil, fmt.Errorf("there is no user %s", name)
		}
	}
	o := &Owner{Name: u.Username, Home: u.HomeDir}
	if o.UID, err = strconv.Atoi(u.Uid); err != nil {
		return nil, err
	}
	if group == "" {
		return o.ownGroups(u)
	}
	g, err := user.LookupGroup(group)
	if err != nil {
		if g, err = user.LookupGroupId(group); err != nil {
			return nil, fmt.Errorf("there is no group %s", group)
		}
	}
	o.GID, err = strconv.Atoi(g.Gid)
	o.Groups = []int{o.GID}
	return o, err
}

// Permitted reports why this process cannot give files away to o, who may be
// nobody in particular.
func (o *Owner) Permitted() error {
	if me := os.Geteuid(); o != nil && me > 0 && o.UID != me {
		return fmt.Errorf("only root can give files to %s", o.Name)
	}
	return nil
}

func (o *Owner) ownGroups(u *user.User) (*Owner, error) {
	ids, err := u.GroupIds()
	if err != nil {
		return nil, err
	}
	if o.GID, err = strconv.Atoi(u.Gid); err != nil {
		return nil, err
	}
	for _, id := range ids {
		n, err := strconv.Atoi(id)
		if err != nil {
			return nil, err
		}
		o.Groups = append(o.Groups, n)
	}
	return o, nil
}
